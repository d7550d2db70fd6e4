import type { AttestedBlock } from '../../image/attested-block.ts';
import type { BlockIndex } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { HostAddress, TouchOrder } from '../../tree/messages.ts';
import { CodedError } from '../../util/errors.ts';
import type { PeerId } from '../../util/peer-id.ts';
import type { ReadKind } from './blob-reader.ts';
import type { Caller, Handlers, TreeCalls } from './calls.ts';

/** One block asked of a peer. */
export interface BlockRequest {
  readonly digest: Digest;
  readonly index: BlockIndex;
  readonly kind: ReadKind;
  /**
   * Peers that the request may still pass; 0 = answer from what you hold. A cycle ends here at the
   * latest.
   */
  readonly hops: number;
  /** Milliseconds that the asker still waits. */
  readonly timeoutMs: number;
}

/**
 * Why a peer did not answer with the block.
 *
 * - `unreachable`: no connection, or it broke. `timeout`: connected, but silent for too long.
 * - `overloaded`: the peer sheds load; ask again after `retryAfterMs`. `unknown-blob`: it is in no
 *   tree of the blob (join again).
 * - `not-found`: neither the peer nor its sources have the block. `hops`: the hop budget is used
 *   up.
 * - `protocol`: the peer broke the wire protocol; `cancelled`: this host gave up; `refused`: the
 *   peer does not serve this host.
 */
export type PeerErrorDetail =
  | { readonly code: 'unreachable' }
  | { readonly code: 'timeout' }
  | { readonly code: 'overloaded'; readonly retryAfterMs: number }
  | { readonly code: 'unknown-blob' }
  | { readonly code: 'not-found' }
  | { readonly code: 'hops' }
  /** `isContent`: bytes of a registry that are not what their digest names. */
  | { readonly code: 'protocol'; readonly isContent?: true }
  | { readonly code: 'refused' }
  | { readonly code: 'cancelled' };

/** A call to a peer that failed; see `PeerErrorDetail`. */
export class PeerError extends CodedError<PeerErrorDetail> {}

/** The error that a caller gets about a peer. */
export function peerError(peer: PeerId, detail: PeerErrorDetail, cause?: unknown): PeerError {
  const text = `peer ${peer} did not answer: ${detail.code}`;
  return new PeerError(text, detail, cause === undefined ? undefined : { cause });
}

/** A block request in flight to a peer. */
export interface PendingBlock {
  /**
   * Resolves with the block, or rejects with PeerError. The caller releases the payload, whose
   * bytes are not verified yet.
   */
  readonly answer: Promise<AttestedBlock>;
  /**
   * Something waits for the block now: the peer treats the request as a demand read from here on.
   */
  promote(): void;
  /** The answer is no longer wanted; `answer` rejects with `cancelled`. */
  cancel(): void;
}

/** A block request of a peer, to be answered once. */
export interface IncomingBlockRequest {
  readonly peer: PeerId;
  readonly request: BlockRequest;
  /**
   * Sends the block; holds the payload until the socket has taken it, then resolves. Never rejects,
   * not even when the peer has gone.
   */
  answer(block: AttestedBlock): Promise<void>;
  fail(detail: PeerErrorDetail): void;
}

/**
 * The calls of peers, as the transport passes them on. All are synchronous: the work goes on
 * elsewhere.
 */
export interface BlockServer {
  onRequest(incoming: IncomingBlockRequest): void;
  onPromote(incoming: IncomingBlockRequest): void;
  onCancel(incoming: IncomingBlockRequest): void;
  /** The parent tells the order in which other hosts touch blocks. */
  onOrder(peer: PeerId, order: TouchOrder): void;
  /** A peer that this host waits for says that it is alive. */
  onAlive(peer: PeerId): void;
  /** The peer shows no sign of life while a call waits for it, be it one that was given up. */
  onSilent?(peer: PeerId): void;
  /** The last connection to the peer closed. */
  onPeerGone(peer: PeerId): void;
}

/**
 * Talks to other agents.
 *
 * Life: constructed -> `serve()` once -> `start()` (listens) -> used -> `stop()` (closes every
 * connection, rejects what is pending). Connections are made on demand, kept, and shared by all
 * requests to a peer.
 */
export interface Transport extends Caller<TreeCalls> {
  readonly self: PeerId;
  serve(servers: { block: BlockServer; calls?: Handlers<TreeCalls> }): void;
  start(): Promise<void>;
  stop(): Promise<void>;
  /** Multiaddrs to hand out, without the peer id. */
  addresses(): readonly string[];
  requestBlock(host: HostAddress, request: BlockRequest): PendingBlock;
  /** Tells a connected peer the order of touches; does nothing without a connection. */
  sendOrder(peer: PeerId, order: TouchOrder): void;
  /**
   * Tells a connected peer, which waits for this host, that this host is alive; does nothing
   * without a connection.
   */
  sendAlive(peer: PeerId): void;
}
