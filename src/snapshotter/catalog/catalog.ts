import { assert, defined } from '../../util/assert.ts';
import { SnapshotError } from '../errors.ts';
import type { Labels, SnapshotKind, SnapshotLayer, SnapshotRecord, Usage } from './snapshot.ts';

/** Most snapshots of a host: some hundred containers and images of some dozen layers are 10,000. */
const SNAPSHOTS_MAX = 131_072;

/** Longest name, in bytes: containerd's keys have some hundred. */
const NAME_BYTES_MAX = 4096;

/** Most layers below each other. overlayfs takes 500, images have 127 and devices 255. */
const DEPTH_MAX = 512;

/** One record takes the place of another; without `before` it is new, without `after` it goes. */
export interface Change {
  readonly before?: SnapshotRecord;
  readonly after?: SnapshotRecord;
}

/** What snapshots are counted by: the kind, and of committed ones what they hold. */
export type CountedKind = Exclude<SnapshotKind, 'committed'> | SnapshotLayer['kind'];

/** All of them. */
export const COUNTED_KINDS = ['active', 'view', 'files', 'block', 'trace'] as const;

interface Node {
  readonly record: SnapshotRecord;
  childCount: number;
}

/**
 * All snapshots of a host, in memory, by name. Each operation checks its rules and gives the change
 * that carries it out, which `apply()` makes and `revert()` undoes. Synchronous and pure.
 */
export class Catalog {
  readonly #nodes = new Map<string, Node>();
  readonly #counts = new Map<CountedKind, number>();
  #nextId: number;

  /** `nextId` is larger than any id ever used. */
  constructor(records: Iterable<SnapshotRecord>, nextId: number) {
    this.#nextId = nextId;
    for (const record of [...records].sort((a, b) => a.id - b.id)) {
      assert(record.id < nextId, `snapshot ${record.id} is older than the next id ${nextId}`);
      this.#nodes.set(record.name, { record, childCount: 0 });
      this.#count(record, 1);
    }
    for (const { record } of this.#nodes.values()) {
      if (record.parent !== '') this.#node(record.parent).childCount++;
    }
  }

  get size(): number {
    return this.#nodes.size;
  }

  /** Snapshots of a kind. */
  countOf(kind: CountedKind): number {
    return this.#counts.get(kind) ?? 0;
  }

  /** The id that the next new record takes. */
  get nextId(): number {
    return this.#nextId;
  }

  /** All of them, in no order that holds. */
  *records(): Generator<SnapshotRecord> {
    for (const { record } of this.#nodes.values()) yield record;
  }

  find(name: string): SnapshotRecord | undefined {
    return this.#nodes.get(name)?.record;
  }

  /** Throws SnapshotError `not-found`. */
  get(name: string): SnapshotRecord {
    const record = this.find(name);
    if (record !== undefined) return record;
    throw new SnapshotError(`snapshot ${name} does not exist`, { code: 'not-found' });
  }

  /** One that is written to or looked at. Throws SnapshotError. */
  getOpen(name: string): SnapshotRecord {
    const record = this.get(name);
    if (record.kind !== 'committed') return record;
    const what = `snapshot ${name} is committed: only an active one or a view has mounts`;
    throw new SnapshotError(what, { code: 'precondition' });
  }

  /** The snapshots below one, its parent first. */
  ancestors(record: Pick<SnapshotRecord, 'parent'>): readonly SnapshotRecord[] {
    const found: SnapshotRecord[] = [];
    for (let name = record.parent; name !== ''; ) {
      const { record: parent } = this.#node(name);
      found.push(parent);
      assert(found.length <= DEPTH_MAX, 'no snapshot has more parents');
      name = parent.parent;
    }
    return found;
  }

  /** A new snapshot with the next id. Throws SnapshotError. */
  create(fields: Omit<SnapshotRecord, 'id' | 'updatedMs' | 'usage'>): Change {
    const { name, parent } = fields;
    this.#requireFree(name);
    if (this.size >= SNAPSHOTS_MAX) {
      const what = `${SNAPSHOTS_MAX} snapshots are there already (the limit): remove some`;
      throw new SnapshotError(what, { code: 'too-many', limit: SNAPSHOTS_MAX });
    }
    if (parent !== '') this.#requireParent(parent);
    const usage = { sizeBytes: 0, inodes: 0 };
    const labels = withoutEmpty(fields.labels);
    const { createdMs: updatedMs } = fields;
    return { after: { ...fields, labels, usage, updatedMs, id: this.#nextId++ } };
  }

  /** An active snapshot becomes a committed one of another name. Throws SnapshotError. */
  commit(
    key: string,
    fields: Pick<SnapshotRecord, 'name' | 'labels' | 'layer' | 'createdMs'> & { usage: Usage },
  ): Change {
    const before = this.get(key);
    this.#requireFree(fields.name);
    if (before.kind !== 'active') {
      const what = `snapshot ${key} is not active but ${before.kind}: it cannot be committed`;
      throw new SnapshotError(what, { code: 'precondition' });
    }
    const labels = withoutEmpty(fields.labels);
    const { createdMs: updatedMs } = fields;
    const open = { kind: 'committed', heldInBoot: '' } as const;
    const { writable: _, ...rest } = before;
    return { before, after: { ...rest, ...fields, ...open, labels, updatedMs } };
  }

  /** Throws SnapshotError. */
  remove(name: string): Change {
    const before = this.get(name);
    const { childCount } = this.#node(name);
    if (childCount === 0) return { before };
    const what = `snapshot ${name} cannot be removed: ${childCount} are made on top of it`;
    throw new SnapshotError(what, { code: 'precondition' });
  }

  /**
   * New labels. `paths` is a field mask: `labels.KEY` sets one label, `labels` or no path at all
   * replaces them all. Throws SnapshotError.
   */
  relabel(
    name: string,
    { labels, paths, nowMs }: { labels: Labels; paths: readonly string[]; nowMs: number },
  ): Change {
    const before = this.get(name);
    let after: Labels = paths.length === 0 ? labels : before.labels;
    for (const path of paths) {
      const key = /^labels\.(.+)$/s.exec(path)?.[1];
      if (key !== undefined) after = { ...after, [key]: valueOf(labels, key) };
      else if (path === 'labels') after = labels;
      else {
        const what = `cannot update the field ${path} of snapshot ${name}: only labels change`;
        throw new SnapshotError(what, { code: 'invalid' });
      }
    }
    return { before, after: { ...before, labels: withoutEmpty(after), updatedMs: nowMs } };
  }

  /** Notes the boot in which an open snapshot took hold of a device. Throws SnapshotError. */
  hold(name: string, heldInBoot: string): Change {
    const before = this.getOpen(name);
    return { before, after: { ...before, heldInBoot } };
  }

  /** Makes a change that one of the operations gave, before any other. */
  apply({ before, after }: Change): void {
    const childCount = before === undefined ? 0 : this.#take(before);
    if (after !== undefined) this.#put(after, childCount);
  }

  /** Undoes the change that was applied last, of those not yet undone. */
  revert({ before, after }: Change): void {
    this.apply({ ...(after && { before: after }), ...(before && { after: before }) });
  }

  #take(record: SnapshotRecord): number {
    const { name, parent } = record;
    const { childCount } = this.#node(name);
    this.#nodes.delete(name);
    this.#count(record, -1);
    if (parent !== '') this.#node(parent).childCount--;
    return childCount;
  }

  #put(record: SnapshotRecord, childCount: number): void {
    assert(!this.#nodes.has(record.name), 'a snapshot takes a free name');
    if (record.parent !== '') this.#node(record.parent).childCount++;
    this.#nodes.set(record.name, { record, childCount });
    this.#count(record, 1);
  }

  #count({ kind, layer }: SnapshotRecord, more: number): void {
    const counted = kind === 'committed' ? layer.kind : kind;
    this.#counts.set(counted, this.countOf(counted) + more);
  }

  #node(name: string): Node {
    return defined(this.#nodes.get(name), `snapshot ${name} is there`);
  }

  #requireFree(name: string): void {
    if (name === '' || Buffer.byteLength(name) > NAME_BYTES_MAX) {
      const what = `a snapshot's name has 1 to ${NAME_BYTES_MAX} bytes, not ${name.length}`;
      throw new SnapshotError(what, { code: 'invalid' });
    }
    if (!this.#nodes.has(name)) return;
    throw new SnapshotError(`snapshot ${name} exists already`, { code: 'already-exists' });
  }

  #requireParent(name: string): void {
    const parent = this.get(name);
    if (parent.kind !== 'committed') {
      const what = `the parent ${name} is not committed but ${parent.kind}`;
      throw new SnapshotError(what, { code: 'invalid' });
    }
    if (this.ancestors(parent).length + 2 <= DEPTH_MAX) return;
    const what = `snapshot ${name} has ${DEPTH_MAX} layers already (the limit)`;
    throw new SnapshotError(what, { code: 'too-many', limit: DEPTH_MAX });
  }
}

/** As containerd keeps labels: an empty value is no label. */
function withoutEmpty(labels: Labels): Labels {
  return Object.fromEntries(Object.entries(labels).filter(([, value]) => value !== ''));
}

function valueOf(labels: Labels, key: string): string {
  return Object.hasOwn(labels, key) ? (labels[key] ?? '') : '';
}
