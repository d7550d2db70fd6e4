import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Catalog, COUNTED_KINDS, type Change } from '../../../src/snapshotter/catalog/catalog.ts';
import type { SnapshotRecord } from '../../../src/snapshotter/catalog/snapshot.ts';
import { SnapshotError } from '../../../src/snapshotter/errors.ts';

const FILES = { kind: 'files' } as const;
const USAGE = { sizeBytes: 1, inodes: 2 };

function create(catalog: Catalog, name: string, fields: Partial<SnapshotRecord> = {}): Change {
  const usual = { parent: '', kind: 'active', layer: FILES, labels: {} } as const;
  return catalog.create({ ...usual, createdMs: 5, heldInBoot: '', ...fields, name });
}

function commit(catalog: Catalog, key: string, name: string, labels = {}): Change {
  return catalog.commit(key, { name, labels, layer: FILES, createdMs: 9, usage: USAGE });
}

/** A catalog with the committed `base` and the active `top` on it. */
function filled(): Catalog {
  const catalog = new Catalog([], 1);
  catalog.apply(create(catalog, 'key'));
  catalog.apply(commit(catalog, 'key', 'base', { a: '1', empty: '' }));
  catalog.apply(create(catalog, 'top', { parent: 'base' }));
  return catalog;
}

const code = (text: string) => expect.objectContaining({ code: text }) as Error;

describe('Catalog', () => {
  it('commit() renames an active snapshot, with new labels and the same id', () => {
    const catalog = filled();
    expect(catalog.get('base')).toMatchObject({
      ...{ id: 1, kind: 'committed', labels: { a: '1' }, usage: USAGE, createdMs: 9, updatedMs: 9 },
    });
    expect(catalog.find('key')).toBeUndefined();
    expect(() => commit(catalog, 'key', 'x')).toThrow(code('not-found'));
    expect(() => commit(catalog, 'top', 'base')).toThrow(code('already-exists'));
    expect(() => commit(catalog, 'base', 'x')).toThrow(code('precondition'));
    catalog.apply(create(catalog, 'view', { kind: 'view' }));
    expect(() => commit(catalog, 'view', 'x')).toThrow(code('precondition'));
  });

  it('create() refuses a name in use, and a parent that is missing or not committed', () => {
    const catalog = filled();
    expect(() => create(catalog, 'top')).toThrow(code('already-exists'));
    expect(() => create(catalog, 'x', { parent: 'y' })).toThrow(code('not-found'));
    expect(() => create(catalog, 'x', { parent: 'top' })).toThrow(code('invalid'));
    expect(() => create(catalog, '')).toThrow(code('invalid'));
    expect(() => create(catalog, 'x'.repeat(5000))).toThrow(code('invalid'));
  });

  it('remove() refuses one with children, and takes them from the top down', () => {
    const catalog = filled();
    expect(() => catalog.remove('base')).toThrow(code('precondition'));
    expect(() => catalog.remove('x')).toThrow(code('not-found'));
    catalog.apply(catalog.remove('top'));
    catalog.apply(catalog.remove('base'));
    expect(catalog.size).toBe(0);
  });

  it('getOpen() and hold() refuse a committed one', () => {
    const catalog = filled();
    expect(() => catalog.getOpen('base')).toThrow(code('precondition'));
    expect(() => catalog.hold('base', 'boot')).toThrow(code('precondition'));
    catalog.apply(catalog.hold('top', 'boot'));
    expect(catalog.getOpen('top').heldInBoot).toBe('boot');
    catalog.apply(commit(catalog, 'top', 'done'));
    expect(catalog.get('done').heldInBoot).toBe('');
  });

  it('relabel() changes what the field mask names', () => {
    const catalog = filled();
    const relabel = (labels: Record<string, string>, ...paths: string[]) =>
      catalog.relabel('base', { labels, paths, nowMs: 11 }).after;
    expect(relabel({ b: '2' })).toMatchObject({ labels: { b: '2' }, updatedMs: 11, createdMs: 9 });
    expect(relabel({ b: '2', c: '3' }, 'labels.b')?.labels).toEqual({ a: '1', b: '2' });
    expect(relabel({}, 'labels.a')?.labels).toEqual({});
    expect(relabel({ a: '' }, 'labels.a')?.labels).toEqual({});
    expect(relabel({ 'x.y/z': '4' }, 'labels.x.y/z')?.labels).toEqual({ a: '1', 'x.y/z': '4' });
    expect(relabel({ b: '2' }, 'labels')?.labels).toEqual({ b: '2' });
    expect(() => relabel({}, 'parent')).toThrow(code('invalid'));
    expect(() => relabel({}, 'labels.')).toThrow(code('invalid'));
    expect(() => catalog.relabel('x', { labels: {}, paths: [], nowMs: 1 })).toThrow(
      code('not-found'),
    );
    expect(relabel(JSON.parse('{"__proto__":"x"}') as object as Record<string, string>)).toEqual(
      expect.objectContaining({ labels: JSON.parse('{"__proto__":"x"}') as unknown }),
    );
  });

  it('bounds how many layers lie below each other', () => {
    const catalog = new Catalog([], 1);
    const stack = (): void => {
      for (let i = 0; i < 600; i++) {
        const parent = i === 0 ? '' : `${i - 1}`;
        catalog.apply(create(catalog, `${i}`, { kind: 'committed', parent }));
      }
    };
    expect(stack).toThrow(code('too-many'));
    expect(catalog.size).toBe(512);
    expect(catalog.ancestors(catalog.get('511'))).toHaveLength(511);
  });
});

/** Steps at random over few names, so that they meet. */
const name = fc.constantFrom('a', 'b', 'c', 'd', 'e');
const step = fc.oneof(
  fc.record({
    do: fc.constant('create' as const),
    ...{ name, parent: fc.option(name, { nil: '' }) },
    kind: fc.constantFrom('active' as const, 'view' as const, 'committed' as const),
  }),
  fc.record({ do: fc.constant('commit' as const), name, to: name }),
  fc.record({ do: fc.constant('remove' as const), name }),
  fc.record({ do: fc.constant('relabel' as const), name, key: name }),
  fc.record({ do: fc.constant('hold' as const), name }),
);

function changeOf(catalog: Catalog, taken: typeof step extends fc.Arbitrary<infer T> ? T : never) {
  switch (taken.do) {
    case 'create':
      return create(catalog, taken.name, { parent: taken.parent, kind: taken.kind });
    case 'commit':
      return commit(catalog, taken.name, taken.to);
    case 'remove':
      return catalog.remove(taken.name);
    case 'relabel':
      return catalog.relabel(taken.name, { labels: { [taken.key]: 'x' }, paths: [], nowMs: 1 });
    case 'hold':
      return catalog.hold(taken.name, 'boot');
  }
}

const recordsOf = (catalog: Catalog): readonly SnapshotRecord[] =>
  [...catalog.records()].sort((a, b) => a.id - b.id);

/** What holds after every step. */
function check(catalog: Catalog, idsBefore: Set<number>): void {
  const records = recordsOf(catalog);
  expect(new Set(records.map(({ id }) => id)).size).toBe(records.length);
  for (const { name: own, parent, kind } of records) {
    if (parent !== '') expect(catalog.get(parent).kind).toBe('committed');
    const children = records.filter((other) => other.parent === own);
    if (children.length > 0) {
      expect(kind).toBe('committed');
      expect(() => catalog.remove(own)).toThrow(SnapshotError);
    } else expect(catalog.remove(own).before?.name).toBe(own);
  }
  const counted = COUNTED_KINDS.map((each) => catalog.countOf(each));
  expect(counted.reduce((a, b) => a + b)).toBe(records.length);
  for (const id of idsBefore) expect(id).toBeLessThan(catalog.nextId);
}

describe('Catalog, at random', () => {
  it('keeps its rules; changes can be undone; a copy made of its records is the same', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), fc.nat(), (steps, undoneCount) => {
        const catalog = new Catalog([], 1);
        const ids = new Set<number>();
        const done: Change[] = [];
        const states = [recordsOf(catalog)];
        for (const taken of steps) {
          try {
            const change = changeOf(catalog, taken);
            catalog.apply(change);
            done.push(change);
            if (change.before === undefined && change.after !== undefined) {
              expect(ids.has(change.after.id)).toBe(false);
              ids.add(change.after.id);
            }
            states.push(recordsOf(catalog));
          } catch (error) {
            expect(error).toBeInstanceOf(SnapshotError);
            expect(recordsOf(catalog)).toEqual(states.at(-1));
          }
          check(catalog, ids);
        }
        const copy = new Catalog(catalog.records(), catalog.nextId);
        check(copy, ids);
        expect(recordsOf(copy)).toEqual(recordsOf(catalog));
        for (let i = 0; i < undoneCount % (done.length + 1); i++) {
          const change = done.pop();
          if (change !== undefined) catalog.revert(change);
        }
        expect(recordsOf(catalog)).toEqual(states[done.length]);
        check(catalog, ids);
      }),
      { numRuns: 300 },
    );
  });
});
