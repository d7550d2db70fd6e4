import type { BlobRef, BlockIndex } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { HostAddress, TouchOrder } from '../../tree/messages.ts';
import type { PeerId } from '../../util/peer-id.ts';
import type { ReadKind } from '../contracts/blob-reader.ts';
import type { TransferErrorDetail } from '../contracts/errors.ts';
import type { BlockRequest, PeerErrorDetail } from '../contracts/transport.ts';

/** Where a block came from: the label of `xylem_block_bytes_total`. */
export type BlockSource = 'memory' | 'disk' | 'parent' | 'alternate' | 'root' | OriginSource;

/**
 * Why this host asks an origin: it owns the block; as a last resort; or only its own clients' ways
 * lead to the blob.
 */
export type OriginSource = 'origin' | 'fallback' | 'own-way';

/** Names an attempt at a source, from its `ask` effect to its result. */
export type AttemptId = number;

/**
 * Work that the reducer wants done. The driver (the engine, or the simulator's world) carries it
 * out, and reports back by the named call of the reducer, if any.
 *
 * `P` is the payload of a block, `T` the token of a waiting read. The blocks in `answer`, `send`
 * and `disk-write` come with a reference that the driver releases; the block in `verify` stays the
 * reducer's.
 */
export type Effect<P, T> =
  /** A local read has its block. */
  | { readonly type: 'answer'; readonly token: T; readonly block: P; readonly source: BlockSource }
  | { readonly type: 'fail'; readonly token: T; readonly detail: TransferErrorDetail }
  /** Send the block to a peer that asked; then `sent()`. */
  | { readonly type: 'send'; readonly token: T; readonly peer: PeerId; readonly block: P }
  | { readonly type: 'refuse'; readonly token: T; readonly detail: PeerErrorDetail }
  /** Read the block from the store; then `diskRead()`. */
  | { readonly type: 'disk-read'; readonly blob: BlobRef; readonly index: BlockIndex }
  /** Store the block; then `written()`, whatever came of it. */
  | {
      readonly type: 'disk-write';
      readonly blob: BlobRef;
      readonly index: BlockIndex;
      readonly block: P;
      readonly kind: ReadKind;
    }
  /** Ask a peer; then `received()` or `failed()`. */
  | {
      readonly type: 'ask';
      readonly attempt: AttemptId;
      readonly host: HostAddress;
      readonly request: BlockRequest;
    }
  /** Ask the registry; then `received()` or `failed()`, and `progressed()` before. */
  | {
      readonly type: 'ask-origin';
      readonly attempt: AttemptId;
      readonly blob: BlobRef;
      readonly index: BlockIndex;
      readonly kind: ReadKind;
      readonly source: OriginSource;
    }
  | { readonly type: 'promote'; readonly attempt: AttemptId }
  | { readonly type: 'cancel'; readonly attempt: AttemptId }
  /** Check the block against its attestation; then `verified()`. */
  | {
      readonly type: 'verify';
      readonly attempt: AttemptId;
      readonly blob: BlobRef;
      readonly index: BlockIndex;
      readonly block: P;
    }
  /** A verified block arrived: for the metrics. */
  | {
      readonly type: 'fetched';
      readonly source: BlockSource;
      readonly kind: ReadKind;
      readonly lengthBytes: number;
    }
  /** Tell a peer that waits for this host that this host is alive. */
  | { readonly type: 'alive'; readonly peer: PeerId }
  /** The peer does not answer, or not correctly: the membership looks for another parent. */
  | { readonly type: 'lost'; readonly peer: PeerId; readonly reason: LostReason }
  /** The peer did not give a block that it claimed to hold: its claims do not count for a while. */
  | { readonly type: 'no-holder'; readonly peer: PeerId }
  /** The owner saw the first touch of a block. */
  | { readonly type: 'touched'; readonly digest: Digest; readonly index: BlockIndex }
  | { readonly type: 'order'; readonly peer: PeerId; readonly order: TouchOrder }
  /** Nothing uses the blob any more: its other parts in memory may go. */
  | { readonly type: 'forgot'; readonly digest: Digest };

/** Why a peer counts as lost. */
export type LostReason = 'silent' | 'unreachable' | 'corrupt' | 'protocol' | 'unknown-blob';
