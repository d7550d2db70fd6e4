import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Catalog } from '../../../src/snapshotter/catalog/catalog.ts';
import { Ledger } from '../../../src/snapshotter/store/ledger.ts';
import { MemoryStore } from '../kit/memory-store.ts';

function made() {
  const catalog = new Catalog([], 1);
  const store = new MemoryStore();
  const ledger = new Ledger({ catalog, store });
  const create = (name: string): Promise<void> => {
    const fields = { parent: '', kind: 'active', layer: { kind: 'files' }, labels: {} } as const;
    return ledger.apply(catalog.create({ ...fields, name, createdMs: 1, heldInBoot: '' }));
  };
  const names = (): readonly string[] => [...catalog.records()].map(({ name }) => name).sort();
  const kept = async (): Promise<readonly string[]> =>
    (await store.open()).records.map(({ name }) => name).sort();
  return { catalog, store, ledger, create, names, kept };
}

describe('Ledger', () => {
  it('apply() shows a change at once, and writes those that come meanwhile together', async () => {
    const { store, create, names, catalog, ledger } = made();
    const gate = Promise.withResolvers<void>();
    store.gate = () => gate.promise;
    const applied = [create('a'), create('b'), create('c')];
    applied.push(ledger.apply(catalog.remove('b')));
    expect(names()).toEqual(['a', 'c']);
    gate.resolve();
    await Promise.all(applied);
    expect(
      store.batches.map(({ puts, deletes }) => [puts.map(({ name }) => name), deletes]),
    ).toEqual([
      [['a'], []],
      [['c'], [2]],
    ]);
  });

  it('apply() undoes all that a failed write left unwritten, and goes on', async () => {
    const { store, create, names, catalog, ledger } = made();
    await create('a');
    const gate = Promise.withResolvers<void>();
    store.gate = () => gate.promise;
    const applied = [create('b'), create('c'), ledger.apply(catalog.remove('a'))];
    const settled = Promise.allSettled(applied);
    gate.reject(new Error('full'));
    for (const { status } of await settled) expect(status).toBe('rejected');
    expect(names()).toEqual(['a']);
    store.gate = () => Promise.resolve();
    await create('d');
    expect(names()).toEqual(['a', 'd']);
    // Ids of what was undone are not used again.
    expect(catalog.get('d').id).toBe(4);
  });

  it('what resolved is kept, what rejected is not, at random', async () => {
    const step = fc.record({ name: fc.constantFrom('a', 'b', 'c', 'd'), fails: fc.boolean() });
    await fc.assert(
      fc.asyncProperty(fc.array(fc.array(step, { maxLength: 4 })), async (rounds) => {
        const { store, create, names, catalog, ledger, kept } = made();
        for (const round of rounds) {
          const fails = round.map((each) => each.fails);
          store.gate = () =>
            fails.shift() === true ? Promise.reject(new Error('full')) : Promise.resolve();
          await Promise.allSettled(
            round.map(({ name }) =>
              catalog.find(name) === undefined ? create(name) : ledger.apply(catalog.remove(name)),
            ),
          );
          expect(await kept()).toEqual(names());
        }
      }),
    );
  });
});
