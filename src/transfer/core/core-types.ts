import { BLOCKS_MAX, type BlobRef, type BlockIndex } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { HostAddress } from '../../tree/messages.ts';
import type { BoundedMap } from '../../util/bounded-map.ts';
import type { HeapTimer } from '../../util/timer-heap.ts';
import type { PeerId } from '../../util/peer-id.ts';
import type { ReadKind } from '../contracts/blob-reader.ts';
import type { AttemptId, BlockSource } from './effects.ts';
import type { SmallMap } from '../../util/small-map.ts';
import type { SmallSet } from '../../util/small-set.ts';

/** How the reducer handles payloads that it never looks into. */
export interface PayloadOps<P> {
  length(block: P): number;
  retain(block: P): void;
  release(block: P): void;
}

/** A peer that may have a block, in the role that its tree gives it. */
export interface PeerSource {
  readonly host: HostAddress;
  readonly role: 'parent' | 'alternate' | 'ancestor' | 'root';
}

/** Questions of the reducer to the tree, answered in the same step. */
export interface Routes {
  /** Peers to ask, best first; never this host itself. */
  sources(digest: Digest, stripe: number): readonly PeerSource[];
  /** Whether the peer keeps trees: its word about a block is then a root's word. */
  isRoot(peer: PeerId): boolean;
  /** Whether this host is the root that reads the stripe from the registry. */
  owns(digest: Digest, stripe: number): boolean;
  /**
   * Whether this host keeps the tree of the stripe, as its owner or as the relay of its group; the
   * keeper learns the order of touches.
   */
  keeps(digest: Digest, stripe: number): boolean;
  /**
   * Hosts that said they hold the block. A root that has just become the owner asks one of them
   * before the registry; other hosts have none.
   */
  holders(digest: Digest, index: BlockIndex, nowMs: number): readonly HostAddress[];
  /**
   * Hosts that are or were near this one in the tree of the stripe, beside those that read from it:
   * asked for what they hold when no source gives a block.
   */
  kin(digest: Digest, stripe: number): readonly HostAddress[];
  /** The registry that has the blob; all unconfigured registries have the same key, ''. */
  sourceKey(digest: Digest): string;
  /** Ancestors of this host in the tree of the stripe; 0 at the owner. */
  depth(digest: Digest, stripe: number): number;
}

/** Limits and times of the reducer. Each may be set; the defaults carry their reasons. */
export interface CoreInit {
  /**
   * Maximum number of known blobs: a host of 100 images of 100 layers stays below it. The second
   * bound covers blobs that nothing uses any more.
   */
  readonly blobsMax: number;
  readonly blobsIdleMax: number;
  /**
   * Most bytes that the store owes, with those of the prefetches in flight, before prefetches wait
   * for it. A quarter of what it takes (src/blockstore/limits.ts): the rest is for demand reads.
   */
  readonly storeBytesMax: number;
  /** Bytes of the hot-block cache in memory. */
  readonly cacheBytesMax: number;
  /**
   * Maximum number of block requests in flight to one peer; further requests wait in the peer's
   * queue. 32 x 256 KiB = 8 MiB.
   */
  readonly peerOutstandingMax: number;
  /**
   * Of these, prefetches: a demand read always finds room. As many as one request of a registry
   * brings.
   */
  readonly peerPrefetchMax: number;
  /**
   * A prefetch that has waited at a peer for this long is late and gives its place to others: the
   * block is slow to come, not the peer. The second bound is on late prefetches beside the others:
   * 16 + 8 = 24 in all leave a quarter of the requests to demand reads.
   */
  readonly prefetchMsMax: number;
  readonly peerLateMax: number;
  /**
   * Maximum number of reads in flight at a registry that is alone; at most three quarters of them
   * are prefetches. Of several registries, each has a quarter for itself, and they share the rest.
   */
  readonly originOutstandingMax: number;
  /**
   * Block bytes per second sent to peers, and asked of peers and the registry; undefined: no limit.
   */
  readonly uploadBytesPerSecond: number | undefined;
  readonly downloadBytesPerSecond: number | undefined;
  /**
   * With an upload limit: peers are told to come back, and ask elsewhere, when the parcels that
   * wait need longer than this.
   */
  readonly uploadBacklogMsMax: number;
  /** Maximum number of one peer's reads that wait here; beyond it the peer is told to come back. */
  readonly peerWaitersMax: number;
  /** Maximum number of reads that wait here in all; a quarter is for local reads alone. */
  readonly waitersMax: number;
  /**
   * Longest wait of a peer's read here, whatever the peer asks for: as long as a container waits.
   */
  readonly peerTimeoutMsMax: number;
  /**
   * Maximum number of bytes in flight to one peer, and in all: small, so that a demand answer does
   * not stand behind many prefetches.
   */
  readonly egressPeerBytesMax: number;
  readonly egressBytesMax: number;
  /**
   * A peer that says nothing for this long while requests to it are pending is lost: three missed
   * signs of life. If it recently recovered from a longer silence, this host waits three times
   * that, up to the maximum. Such a peer has too little processor time, and giving it up makes more
   * work for every host (16 agents on two cores gave each other up 25 times each per GiB).
   */
  readonly silentMs: number;
  readonly silentMsMax: number;
  /**
   * The same for a peer that has said nothing yet. Its connection may still be in the making, at 23
   * ms of CPU each, and in a burst of starts many are (`xylem sim --hosts 1000`: with 300 ms here
   * hosts give each other up and dial others without end).
   */
  readonly firstSilentMs: number;
  readonly aliveIntervalMs: number;
  /**
   * The registry is asked beside a holder after `holderMs`; the holder is given up `holderMsMax`
   * after that.
   */
  readonly holderMs: number;
  readonly holderMsMax: number;
  /** Bounds of the hedging delay around the peer's recent p95. */
  readonly hedgeMsMin: number;
  readonly hedgeMsMax: number;
  /** A live peer that has not answered a demand read for this long is given up for a while. */
  readonly attemptMsMax: number;
  /**
   * Bounds of the patience with one read of the registry, around four times its recent p95. For a
   * block it doubles with each read that was given up. A connection that has died unseen says
   * nothing for the client's whole 10 s.
   */
  readonly originMsMin: number;
  readonly originMsMax: number;
  /** Hedges earned per demand read, and maximum number of saved hedges. */
  readonly hedgeShare: number;
  readonly hedgeSavedMax: number;
  /** First pause when every source failed; doubles up to the second bound. */
  readonly retryMsMin: number;
  readonly retryMsMax: number;
  /**
   * Rounds in which every peer failed before a host that is no owner reads the registry itself: at
   * least 50 + 100 + 200 ms.
   */
  readonly fallbackRounds: number;
  /**
   * While a root is reached: the share of its fetched bytes that a host may read by itself, and the
   * bytes that it always may. (tunable)
   */
  readonly fallbackShare: number;
  readonly fallbackBytesMin: number;
  /**
   * Share of a demand read's time after which one block at a time may be read from the registry in
   * any case. (tunable)
   */
  readonly fallbackLate: number;
  /**
   * Time for which a peer is left alone after it broke the protocol or sent bad bytes; doubles each
   * time up to the second bound.
   */
  readonly banMsMin: number;
  readonly banMsMax: number;
  /** Time for which an unreachable peer is left alone. */
  readonly downMs: number;
  /** Maximum number of prefetches in flight in all; 0 turns prefetch off. */
  readonly prefetchMax: number;
  /** Delay before first-touched blocks are told to the children, many at once. */
  readonly orderDelayMs: number;
  /**
   * Blocks of a blob that one peer alone brings into the order. Further blocks count once another
   * host has touched them too, so that no host makes all later ones prefetch gigabytes. 128 MiB:
   * more than containers touch at their start. (tunable)
   */
  readonly orderOfOnePeerMax: number;
}

/** Defaults of `CoreInit`. */
export const CORE_DEFAULTS: CoreInit = {
  blobsMax: 16_384,
  blobsIdleMax: 1024,
  storeBytesMax: 16 * 1024 * 1024,
  cacheBytesMax: 16 * 1024 * 1024,
  peerOutstandingMax: 32,
  peerPrefetchMax: 16,
  prefetchMsMax: 1000,
  peerLateMax: 8,
  originOutstandingMax: 32,
  uploadBytesPerSecond: undefined,
  downloadBytesPerSecond: undefined,
  uploadBacklogMsMax: 1000,
  peerWaitersMax: 64,
  waitersMax: 4096,
  peerTimeoutMsMax: 30_000,
  egressPeerBytesMax: 512 * 1024,
  egressBytesMax: 2 * 1024 * 1024,
  silentMs: 300,
  silentMsMax: 2000,
  firstSilentMs: 1000,
  aliveIntervalMs: 100,
  holderMs: 50,
  holderMsMax: 500,
  hedgeMsMin: 50,
  hedgeMsMax: 2000,
  attemptMsMax: 5000,
  originMsMin: 2000,
  originMsMax: 10_000,
  hedgeShare: 0.05,
  hedgeSavedMax: 10,
  retryMsMin: 50,
  retryMsMax: 1000,
  fallbackRounds: 3,
  fallbackShare: 0.05,
  fallbackBytesMin: 4 * 1024 * 1024,
  fallbackLate: 0.6,
  banMsMin: 30_000,
  banMsMax: 600_000,
  downMs: 1000,
  prefetchMax: 16,
  orderDelayMs: 1,
  orderOfOnePeerMax: 512,
};

/** Peers that a read may pass beyond its host's depth: room for detours over alternates. */
export const HOPS_SLACK = 4;

/** Longest hop budget on the wire: far above the depth of any tree (2^48 hosts with fan-out 2). */
export const HOPS_MAX = 48;

/** A local read of one block. */
export interface LocalRead<T> {
  readonly token: T;
  readonly digest: Digest;
  readonly index: BlockIndex;
  readonly kind: ReadKind;
  readonly timeoutMs: number;
  readonly endsOnNo?: boolean | undefined;
}

/** A read that waits for a block. */
export interface Waiter<T> {
  readonly token: T;
  kind: ReadKind;
  readonly deadlineMs: number;
  readonly startedMs: number;
  readonly hops: number;
  /** The peer that asked; undefined for a local read. */
  readonly peer: PeerId | undefined;
  /** A definite no of the registry ends it. */
  readonly endsOnNo: boolean;
  timer: HeapTimer<TimerAction<T>> | undefined;
}

/** A block that is fetched once for all readers that wait for it. */
export interface Fetch<T> {
  readonly blob: BlobState<T>;
  readonly index: BlockIndex;
  readonly key: number;
  kind: ReadKind;
  stage: 'disk' | 'network' | 'done';
  /** Hop budget: requests go out with one less. */
  hops: number;
  readonly waiters: Waiter<T>[];
  readonly attempts: Attempt<T>[];
  /** Sources asked in this round without success. */
  readonly tried: Set<PeerId | 'origin' | 'holder'>;
  /** Roots that have no way to the block, or could not be reached for it. */
  readonly withoutWay: Set<PeerId>;
  /** Rounds in which every source failed. */
  rounds: number;
  /** Reads of the registry that were given up. */
  originLate: number;
  /** The prefetcher wants the block, whether or not anybody waits. */
  readonly wanted: boolean;
  retry: HeapTimer<TimerAction<T>> | undefined;
}

/** One source asked for one fetch. */
export interface Attempt<T> {
  readonly id: AttemptId;
  readonly fetch: Fetch<T>;
  readonly window: SourceWindow<T>;
  readonly source: BlockSource;
  readonly hops: number;
  state: 'queued' | 'asked' | 'verifying' | 'done';
  kind: ReadKind;
  /** A prefetch that has waited so long that its place at the peer went to others. */
  isLate: boolean;
  startedMs: number;
  hedge: HeapTimer<TimerAction<T>> | undefined;
}

/** A known blob and its part in memory. */
export interface BlobState<T> {
  readonly ref: BlobRef;
  /** Numbers blobs densely, for `keyOf()`. */
  readonly id: number;
  readonly stripes: number;
  /** Openers, trees and fetches. */
  uses: number;
  /** Whether the size is the registry's word, and not only that of a host that named the blob. */
  confirmed: boolean;
  /** Only the ways of this host's own clients lead to it: no peer is asked, or given any of it. */
  ownWay: boolean;
  /** Blocks in memory, by `keyOf()`. */
  readonly cachedKeys: SmallSet<number>;
  readonly fetches: SmallMap<BlockIndex, Fetch<T>>;
  /** Blocks that are in the order, known first touch or not. */
  readonly ordered: SmallSet<BlockIndex>;
  /** At the keeper of the tree: blocks that came into the order by this peer's word alone. */
  readonly ordersOf: SmallMap<PeerId, number>;
  /**
   * Blocks beyond `orderOfOnePeerMax`, by the peer that touched them: the next host to touch them
   * brings them into the order. Undefined before the first.
   */
  touchedOnce: BoundedMap<BlockIndex, PeerId> | undefined;
  /**
   * By stripe: peers that recently asked for blocks of it. They are told the order in which the
   * stripe is touched.
   */
  readonly children: readonly SmallSet<PeerId>[];
  /** First-touched blocks that the children have not been told yet. */
  untold: BlockIndex[];
}

/** Names a block among those of all blobs that a host knows. */
export function keyOf(blob: BlobState<unknown>, index: BlockIndex): number {
  return blob.id * BLOCKS_MAX + index;
}

/** What a timer of the reducer does when it fires. */
export type TimerAction<T> =
  | { readonly type: 'hedge'; readonly attempt: Attempt<T> }
  | { readonly type: 'retry'; readonly fetch: Fetch<T> }
  | { readonly type: 'late'; readonly fetch: Fetch<T>; readonly waiter: Waiter<T> }
  | { readonly type: 'deadline'; readonly fetch: Fetch<T>; readonly waiter: Waiter<T> }
  | { readonly type: 'silent'; readonly window: SourceWindow<T> }
  | { readonly type: 'alive'; readonly peer: PeerId }
  /** The upload or the download limit lets something pass again. */
  | { readonly type: 'upload' | 'download' }
  | { readonly type: 'order'; readonly blob: BlobState<T> };

/** Requests at one peer, or at the registry, and the record of that source. */
export interface SourceWindow<T> {
  /** With the addresses told last; undefined for the registry. */
  host: HostAddress | undefined;
  readonly asked: Set<Attempt<T>>;
  prefetchAsked: number;
  /** Late prefetches in flight, which `prefetchAsked` does not count. */
  prefetchLate: number;
  readonly demand: Attempt<T>[];
  readonly prefetch: Attempt<T>[];
  /** The last prefetch that was asked for, and how many of its blob went in a row. */
  row: {
    readonly blob: BlobState<T> | undefined;
    readonly index: number;
    readonly count: number;
  };
  /** Recent times to an answer in milliseconds, a ring. */
  readonly latenciesMs: Float64Array;
  latencyCount: number;
  lastHeardMs: number;
  /** Whether it has said anything since it was last lost. */
  heard: boolean;
  /** Time when the peer was last heard before it was last lost, until it is heard again. */
  lostSinceMs: number | undefined;
  /**
   * Longest recent silence while a request to it was pending, and when that ended; it counts less
   * with time.
   */
  gapMs: number;
  gapEndMs: number;
  silent: HeapTimer<TimerAction<T>> | undefined;
  /** Times in a row that it did not give in time a block that it claimed to hold. */
  misses: number;
  /** Not asked before this time: banned, down or overloaded. */
  bannedUntilMs: number;
  bans: number;
  downUntilMs: number;
  overloadedUntilMs: number;
}
