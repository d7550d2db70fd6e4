import { blockCount, type BlockIndex } from '../../image/block.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import type { PeerId } from '../../util/peer-id.ts';
import type { BlobState } from './core-types.ts';
import type { FetcherHost } from './fetcher-host.ts';

/** Maximum number of peers of one stripe that are told its touch order: far above any fan-out. */
const CHILDREN_MAX = 256;

/**
 * Maximum number of blocks of a blob that one host alone touched and that wait for a second one: 1
 * GiB. The oldest are forgotten first.
 */
const TOUCHED_ONCE_MAX = 4096;

/** Blocks told in one message. */
const INDICES_MAX = 4096;

/**
 * The order in which containers first touch the blocks of a blob. The keeper of a stripe's tree
 * learns it from the demand reads that reach it; every host passes new blocks on to the peers that
 * read the stripe from it. Peers that read other stripes hear of them from their own parents. When
 * every peer was told, each of 16 hosts heard of each block ten times, and an agent sent ten times
 * as many orders as blocks.
 */
export class OrderGossip<P, T> {
  readonly #host: Pick<FetcherHost<P, T>, 'init' | 'routes' | 'timers' | 'emit'>;

  constructor(host: Pick<FetcherHost<P, T>, 'init' | 'routes' | 'timers' | 'emit'>) {
    this.#host = host;
  }

  /** The peer reads the block's stripe from this host: it is told from now on. */
  addChild(blob: BlobState<T>, index: BlockIndex, peer: PeerId): void {
    const children = blob.children[index % blob.stripes];
    if (children !== undefined && children.size < CHILDREN_MAX) children.add(peer);
  }

  /**
   * A demand read, of a peer or of this host: at the keeper of the tree, the first read of a block
   * counts.
   */
  noteTouch(
    { blob, index, by }: { blob: BlobState<T>; index: BlockIndex; by: PeerId | undefined },
    nowMs: number,
  ): void {
    if (blob.ordered.has(index)) return;
    if (!this.#host.routes.keeps(blob.ref.digest, index % blob.stripes)) return;
    if (by === undefined || this.#counts(blob, index, by)) this.#add(blob, index, nowMs);
  }

  #counts(blob: BlobState<T>, index: BlockIndex, peer: PeerId): boolean {
    const before = blob.touchedOnce?.get(index);
    if (before !== undefined && before !== peer) return blob.touchedOnce?.delete(index) === true;
    const count = blob.ordersOf.get(peer) ?? (blob.ordersOf.size < CHILDREN_MAX ? 0 : Infinity);
    const isTaken = count < this.#host.init.orderOfOnePeerMax;
    if (isTaken) blob.ordersOf.set(peer, count + 1);
    else this.#touchedOnce(blob).set(index, peer);
    return isTaken;
  }

  #touchedOnce(blob: BlobState<T>): BoundedMap<BlockIndex, PeerId> {
    return (blob.touchedOnce ??= new BoundedMap({ entriesMax: TOUCHED_ONCE_MAX }));
  }

  /** The new blocks of an order that another host told; the children are told them too. */
  learn(blob: BlobState<T>, indices: readonly BlockIndex[], nowMs: number): readonly BlockIndex[] {
    const count = blockCount(blob.ref.sizeBytes);
    const fresh = indices.filter((index) => index < count && !blob.ordered.has(index));
    for (const index of fresh) this.#add(blob, index, nowMs);
    return fresh;
  }

  /** Tells the children the blocks that they have not been told. */
  tell(blob: BlobState<T>): void {
    const byPeer = new Map<PeerId, BlockIndex[]>();
    for (const index of blob.untold) {
      for (const peer of blob.children[index % blob.stripes] ?? []) {
        const indices = byPeer.get(peer);
        if (indices === undefined) byPeer.set(peer, [index]);
        else indices.push(index);
      }
    }
    blob.untold = [];
    const { digest } = blob.ref;
    for (const [peer, indices] of byPeer) {
      for (let start = 0; start < indices.length; start += INDICES_MAX) {
        const order = { digest, indices: indices.slice(start, start + INDICES_MAX) };
        this.#host.emit({ type: 'order', peer, order });
      }
    }
  }

  /** The keeper of the tree remembers the order for those that join later. */
  #add(blob: BlobState<T>, index: BlockIndex, nowMs: number): void {
    const { digest } = blob.ref;
    blob.ordered.add(index);
    if (this.#host.routes.keeps(digest, index % blob.stripes)) {
      this.#host.emit({ type: 'touched', digest, index });
    }
    this.#tellLater(blob, index, nowMs);
  }

  #tellLater(blob: BlobState<T>, index: BlockIndex, nowMs: number): void {
    if (blob.untold.length === 0) {
      this.#host.timers.set(nowMs + this.#host.init.orderDelayMs, { type: 'order', blob });
    }
    blob.untold.push(index);
  }
}
