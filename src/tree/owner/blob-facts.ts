import { type BlockIndex, blockIndex } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import { defined } from '../../util/assert.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import type { PeerId } from '../../util/peer-id.ts';
import {
  BLOBS_REMEMBERED_MAX,
  DISTRUST_MS,
  DISTRUSTED_MAX,
  HOLDERS_ANSWERED_MAX,
  HOLDERS_PER_BLOB_MAX,
  ORDER_BLOCKS_MAX,
  RUNS_PER_HOLDER_MAX,
} from '../limits.ts';
import type { BlockRun } from '../messages.ts';

interface Facts {
  readonly holders: Map<PeerId, { readonly runs: readonly BlockRun[]; readonly blocks: number }>;
  readonly touched: Set<BlockIndex>;
  /** `touched` as an array, made when asked for. */
  order: readonly BlockIndex[] | undefined;
}

/**
 * An owner's memory of blobs besides their trees: the holders of their blocks, and the order of
 * first touches.
 */
export class BlobFacts {
  readonly #blobs = new BoundedMap<Digest, Facts>({
    entriesMax: BLOBS_REMEMBERED_MAX,
    evict: 'use',
    onEvict: (digest, { holders }) => {
      for (const peer of holders.keys()) this.#unlink(peer, digest);
    },
  });
  /** Until when. */
  readonly #distrusted = new BoundedMap<PeerId, number>({ entriesMax: DISTRUSTED_MAX });
  readonly #holdings = new Map<PeerId, Set<Digest>>();

  #of(digest: Digest): Facts {
    const known = this.#blobs.get(digest);
    if (known !== undefined) return known;
    const facts: Facts = { holders: new Map(), touched: new Set(), order: undefined };
    this.#blobs.set(digest, facts);
    return facts;
  }

  #unlink(peer: PeerId, digest: Digest): void {
    const digests = this.#holdings.get(peer);
    digests?.delete(digest);
    if (digests?.size === 0) this.#holdings.delete(peer);
  }

  /** The peer holds these blocks (ascending runs); they replace its earlier ones. */
  setHeld(
    peer: PeerId,
    { digest, runs }: { readonly digest: Digest; readonly runs: readonly BlockRun[] },
    nowMs: number,
  ): void {
    if (runs.length === 0 || nowMs < (this.#distrusted.get(peer) ?? 0)) return;
    const facts = this.#of(digest);
    const kept = runs.slice(0, RUNS_PER_HOLDER_MAX);
    const blocks = kept.reduce((sum, [, count]) => sum + count, 0);
    if (!facts.holders.has(peer) && facts.holders.size >= HOLDERS_PER_BLOB_MAX) {
      let poorest: PeerId | undefined;
      let fewest = blocks;
      for (const [other, holding] of facts.holders) {
        if (holding.blocks >= fewest) continue;
        poorest = other;
        fewest = holding.blocks;
      }
      if (poorest === undefined) return;
      facts.holders.delete(poorest);
      this.#unlink(poorest, digest);
    }
    facts.holders.set(peer, { runs: kept, blocks });
    const digests = this.#holdings.get(peer);
    if (digests === undefined) this.#holdings.set(peer, new Set([digest]));
    else digests.add(digest);
  }

  /** The peer holds none of the blocks that it claimed, and is distrusted for a while. */
  distrust(peer: PeerId, nowMs: number): void {
    this.drop(peer);
    this.#distrusted.set(peer, nowMs + DISTRUST_MS);
  }

  /** The peer is gone, or no longer keeps this blob. */
  drop(peer: PeerId, digest?: Digest): void {
    const digests = digest === undefined ? [...(this.#holdings.get(peer) ?? [])] : [digest];
    for (const each of digests) {
      this.#blobs.peek(each)?.holders.delete(peer);
      this.#unlink(peer, each);
    }
  }

  /** Peers that claimed the block, the earliest first, at most HOLDERS_ANSWERED_MAX. */
  holders(digest: Digest, index: BlockIndex): PeerId[] {
    const found: PeerId[] = [];
    for (const [peer, { runs }] of this.#blobs.peek(digest)?.holders ?? []) {
      if (found.length === HOLDERS_ANSWERED_MAX) break;
      if (covers(runs, index)) found.push(peer);
    }
    return found;
  }

  /**
   * A block was asked for; only its first time counts, and only for the first ORDER_BLOCKS_MAX
   * blocks of a blob.
   */
  touch(digest: Digest, index: BlockIndex): void {
    const facts = this.#of(digest);
    if (facts.touched.size >= ORDER_BLOCKS_MAX || facts.touched.has(index)) return;
    facts.touched.add(index);
    facts.order = undefined;
  }

  orderOf(digest: Digest): readonly BlockIndex[] {
    const facts = this.#blobs.peek(digest);
    if (facts === undefined) return [];
    facts.order ??= [...facts.touched];
    return facts.order;
  }
}

/** Whether one of the ascending runs holds the block. */
function covers(runs: readonly BlockRun[], index: BlockIndex): boolean {
  let low = 0;
  let high = runs.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const [first, count] = defined(runs[middle], 'the middle lies between the ends');
    if (index < first) high = middle;
    else if (index >= blockIndex(first + count)) low = middle + 1;
    else return true;
  }
  return false;
}
