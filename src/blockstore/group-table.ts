import type { BlockIndex } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import { assert } from '../util/assert.ts';
import { Counts } from '../util/counts.ts';
import { EvictionOrder, Ordered, type Standing } from './eviction.ts';
import { groupOf } from './layout.ts';
import type { KeepClass } from './store.ts';

/** Neighbouring blocks of a blob that are evicted together. Only the table changes it. */
export interface Group {
  readonly digest: Digest;
  /** Number of the group in its blob, from 0. */
  readonly index: number;
  readonly blockCount: number;
  readonly sizeBytes: number;
}

/** A group's uses, as the store remembers them over a restart. */
export interface GroupUse extends Standing {
  readonly digest: Digest;
  readonly index: number;
}

/** Totals of the groups of a blob. */
interface BlobTotals {
  readonly blockCount: number;
  readonly sizeBytes: number;
  readonly lastUseMs: number | undefined;
}

class CountedGroup extends Ordered<CountedGroup> implements Group {
  readonly digest: Digest;
  readonly index: number;
  blockCount = 0;
  sizeBytes = 0;
  users = 0;

  constructor(digest: Digest, index: number) {
    super();
    this.digest = digest;
    this.index = index;
  }
}

/**
 * Which groups of blocks a store holds, with their sizes, users and order of eviction. It holds no
 * bytes of blocks.
 *
 * A group exists while it has a block or a user. It is evicted as a whole, and never while it has a
 * user.
 */
export class GroupTable {
  readonly #order = new EvictionOrder<CountedGroup>();
  /** The groups of each blob, by number. Most blobs have one group: it stands for itself. */
  readonly #blobs = new Map<Digest, CountedGroup | Map<number, CountedGroup>>();
  readonly #pins = new Set<Digest>();
  /** Number of `retain()`s of each blob without a `release()` yet. */
  readonly #mounts = new Counts<Digest>();
  #blockCount = 0;
  #sizeBytes = 0;

  get blockCount(): number {
    return this.#blockCount;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  get pins(): ReadonlySet<Digest> {
    return this.#pins;
  }

  /** Whether any group of the blob exists. */
  has(digest: Digest): boolean {
    return this.#blobs.has(digest);
  }

  /** Makes the caller a user of the block's group until `letGo()`. */
  hold(digest: Digest, block: BlockIndex): Group {
    const group = this.#make(digest, groupOf(block));
    group.users++;
    return group;
  }

  /** Ends one `hold()`. True when the group then has no block and no user. */
  letGo(held: Group): boolean {
    const group = this.#own(held);
    assert(group.users > 0, 'cannot let go of a group without users');
    group.users--;
    if (group.users > 0 || group.blockCount > 0) return false;
    this.#remove(group);
    return true;
  }

  /** Counts a block added to a group that the caller holds, which is a use of the group. */
  addBlock(held: Group, lengthBytes: number, nowMs: number): void {
    const group = this.#own(held);
    this.#count(group, 1, lengthBytes);
    if (this.#order.has(group)) this.#order.use(group, nowMs);
    else this.#order.add(group, this.keepOf(group.digest), { proven: false, lastUseMs: nowMs });
  }

  /** Counts a block removed from a group that the caller holds. */
  removeBlock(held: Group, lengthBytes: number): void {
    const group = this.#own(held);
    this.#count(group, -1, -lengthBytes);
    if (group.blockCount === 0) this.#order.remove(group);
  }

  /** Notes a read of a block of the group. */
  use(held: Group, nowMs: number): void {
    const group = this.#own(held);
    if (this.#order.has(group)) this.#order.use(group, nowMs);
  }

  /**
   * Takes over the blocks of an earlier run with their remembered uses. Groups without a remembered
   * use count as used now.
   */
  restore(
    found: Iterable<{ digest: Digest; block: BlockIndex; lengthBytes: number }>,
    init: { uses: Iterable<GroupUse>; nowMs: number },
  ): void {
    const groups = new Map<CountedGroup, Standing>();
    for (const { digest, block, lengthBytes } of found) {
      const group = this.#make(digest, groupOf(block));
      this.#count(group, 1, lengthBytes);
      groups.set(group, { proven: false, lastUseMs: init.nowMs });
    }
    for (const { digest, index, ...standing } of init.uses) {
      const group = this.#find(digest, index);
      if (group !== undefined) groups.set(group, standing);
    }
    const byUse = [...groups].sort(([, a], [, b]) => a.lastUseMs - b.lastUseMs);
    for (const [group, standing] of byUse) {
      this.#order.add(group, this.keepOf(group.digest), standing);
    }
  }

  /** The uses to remember, class by class. */
  *uses(): IterableIterator<GroupUse> {
    for (const group of this.#order.groups()) {
      const { digest, index, proven, lastUseMs } = group;
      yield { digest, index, proven, lastUseMs };
    }
  }

  /** The first group without users to evict, up to this class; undefined when there is none. */
  victim(keepMax: KeepClass): Group | undefined {
    for (const group of this.#order.candidates(keepMax)) if (group.users === 0) return group;
    return undefined;
  }

  /** Removes a group with all its blocks. */
  evict(victim: Group): void {
    const group = this.#own(victim);
    assert(group.users === 0, 'cannot evict a group in use');
    this.#order.remove(group);
    this.#remove(group);
    this.#blockCount -= group.blockCount;
    this.#sizeBytes -= group.sizeBytes;
  }

  keepOf(digest: Digest): KeepClass {
    if (this.#pins.has(digest)) return 'pinned';
    return this.#mounts.has(digest) ? 'mounted' : 'plain';
  }

  isMounted(digest: Digest): boolean {
    return this.#mounts.has(digest);
  }

  pin(digest: Digest): void {
    this.#pins.add(digest);
    this.#move(digest);
  }

  unpin(digest: Digest): void {
    this.#pins.delete(digest);
    this.#move(digest);
  }

  retain(digest: Digest): void {
    this.#mounts.add(digest);
    this.#move(digest);
  }

  release(digest: Digest): void {
    assert(this.#mounts.has(digest), `cannot release ${digest}: it is not retained`);
    this.#mounts.remove(digest);
    this.#move(digest);
  }

  totals(digest: Digest): BlobTotals {
    let [blockCount, sizeBytes] = [0, 0];
    let lastUseMs: number | undefined;
    for (const group of this.#groupsOf(digest)) {
      blockCount += group.blockCount;
      sizeBytes += group.sizeBytes;
      if (!this.#order.has(group)) continue;
      lastUseMs = Math.max(lastUseMs ?? 0, group.lastUseMs);
    }
    return { blockCount, sizeBytes, lastUseMs };
  }

  /** Forgets the groups; pins and mounts stay. */
  clear(): void {
    for (const digest of this.#blobs.keys()) {
      for (const group of this.#groupsOf(digest)) this.#order.remove(group);
    }
    this.#blobs.clear();
    [this.#blockCount, this.#sizeBytes] = [0, 0];
  }

  #move(digest: Digest): void {
    const inOrder = [...this.#groupsOf(digest)].filter((group) => this.#order.has(group));
    inOrder.sort((a, b) => a.lastUseMs - b.lastUseMs);
    for (const group of inOrder) this.#order.move(group, this.keepOf(digest));
  }

  #groupsOf(digest: Digest): Iterable<CountedGroup> {
    const groups = this.#blobs.get(digest);
    if (groups === undefined) return [];
    return groups instanceof CountedGroup ? [groups] : groups.values();
  }

  #find(digest: Digest, index: number): CountedGroup | undefined {
    const groups = this.#blobs.get(digest);
    if (!(groups instanceof CountedGroup)) return groups?.get(index);
    return groups.index === index ? groups : undefined;
  }

  #make(digest: Digest, index: number): CountedGroup {
    const known = this.#find(digest, index);
    if (known !== undefined) return known;
    const group = new CountedGroup(digest, index);
    const others = this.#blobs.get(digest);
    if (others === undefined) this.#blobs.set(digest, group);
    else if (!(others instanceof CountedGroup)) others.set(index, group);
    else this.#blobs.set(digest, new Map([others, group].map((each) => [each.index, each])));
    return group;
  }

  #own(group: Group): CountedGroup {
    assert(group instanceof CountedGroup, 'a group comes from the table');
    return group;
  }

  #remove(group: CountedGroup): void {
    const groups = this.#blobs.get(group.digest);
    if (groups === group) return void this.#blobs.delete(group.digest);
    if (!(groups instanceof Map) || groups.get(group.index) !== group) return;
    groups.delete(group.index);
    const [last] = groups.values();
    if (groups.size === 1 && last !== undefined) this.#blobs.set(group.digest, last);
  }

  #count(group: CountedGroup, blocks: number, bytes: number): void {
    group.blockCount += blocks;
    group.sizeBytes += bytes;
    this.#blockCount += blocks;
    this.#sizeBytes += bytes;
  }
}
