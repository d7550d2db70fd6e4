import type { ReadKind } from '../transfer/contracts/blob-reader.ts';
import type { AttemptId } from '../transfer/core/effects.ts';
import type { BlockRequest, PeerErrorDetail } from '../transfer/contracts/transport.ts';
import type { CallFailure } from '../tree/member/root-link.ts';
import type { MembershipEffect } from '../tree/member/membership.ts';
import type { JoinReply, ReportReply, TouchOrder } from '../tree/messages.ts';
import type { Digest } from '../image/digest.ts';
import type { OpenAnswer } from '../transfer/host/open-blob-types.ts';
import type { SimBlock } from './blocks.ts';
import type { SimBlob } from './workload.ts';

/** Number of a host in the world. */
export type HostNumber = number;

/**
 * A tree call between a child and an owner; the ticket and the address in it are the child's own.
 */
type TreeCall = MembershipEffect;

/** An owner's answer to a tree call. */
export type TreeAnswer =
  | { readonly type: 'join'; readonly reply: JoinReply }
  | { readonly type: 'report'; readonly reply: ReportReply }
  | { readonly type: 'leave' }
  | { readonly type: 'refused' };

/** A message between two agents: the messages of docs/WIRE_PROTOCOL.md, without their bytes. */
export type Body =
  | { readonly kind: 'ask'; readonly attempt: AttemptId; readonly request: BlockRequest }
  | { readonly kind: 'block'; readonly attempt: AttemptId; readonly block: SimBlock }
  | { readonly kind: 'refuse'; readonly attempt: AttemptId; readonly detail: PeerErrorDetail }
  | { readonly kind: 'promote'; readonly attempt: AttemptId }
  | { readonly kind: 'cancel'; readonly attempt: AttemptId }
  | { readonly kind: 'alive' }
  | { readonly kind: 'order'; readonly order: TouchOrder }
  | { readonly kind: 'open'; readonly id: number; readonly digest: Digest }
  | { readonly kind: 'opened'; readonly id: number; readonly answer: OpenAnswer }
  | { readonly kind: 'call'; readonly id: number; readonly call: TreeCall }
  | { readonly kind: 'result'; readonly id: number; readonly answer: TreeAnswer };

/** A connection between two agents; carries all their messages. */
export interface Link {
  readonly low: HostNumber;
  readonly high: HostNumber;
  readonly dialler: HostNumber;
  state: 'dialling' | 'open' | 'closed';
  /** Messages that wait for the handshake, or for a partition to heal. */
  waiting: Delivery[];
  /**
   * Arrival of the last message: TCP keeps the order, low to high (`up`) and high to low (`down`).
   */
  upArrivalMs: number;
  downArrivalMs: number;
  stalled: boolean;
}

/** A message in transit. */
export interface Delivery {
  readonly type: 'deliver';
  readonly link: Link;
  readonly from: HostNumber;
  readonly to: HostNumber;
  readonly body: Body;
  readonly sizeBytes: number;
  /**
   * The read that this message answers; the sender learns when the message has left. Undefined when
   * no reducer waits for that.
   */
  readonly parcel: PeerToken | undefined;
}

/** An event of the world at its time. */
export type SimEvent =
  | Delivery
  /** A message left its sender. */
  | { readonly type: 'sent'; readonly host: HostNumber; readonly token: PeerToken }
  | { readonly type: 'dialled'; readonly link: Link; readonly startedMs: number }
  | { readonly type: 'open'; readonly link: Link }
  | { readonly type: 'dial-failed'; readonly link: Link }
  | { readonly type: 'stalled'; readonly link: Link }
  | { readonly type: 'gone'; readonly host: HostNumber; readonly peer: HostNumber }
  /** The agent's thread is free, or a timer of its reducer is due. */
  | { readonly type: 'agent'; readonly host: HostNumber }
  | { readonly type: 'tick'; readonly host: HostNumber }
  /** A container's CPU burst may be done. */
  | { readonly type: 'cpu'; readonly host: HostNumber; readonly version: number }
  | {
      readonly type: 'container';
      readonly host: HostNumber;
      readonly container: number;
      readonly incarnation: number;
    }
  | {
      readonly type: 'item';
      readonly host: HostNumber;
      readonly incarnation: number;
      readonly item: Item;
    }
  | {
      readonly type: 'read-done';
      readonly host: HostNumber;
      readonly incarnation: number;
      readonly read: number;
      readonly ok: boolean;
    }
  /** Its containers start for the first time. */
  | { readonly type: 'begin'; readonly host: HostNumber }
  | { readonly type: 'fault'; readonly number: number; readonly end: boolean }
  /** The places have not arrived; begin without the shipped order. */
  | { readonly type: 'places-late'; readonly host: HostNumber; readonly incarnation: number }
  | { readonly type: 'sample' };

/** Work for an agent's thread. */
export type Item =
  | { readonly kind: 'message'; readonly delivery: Delivery }
  | { readonly kind: 'sent'; readonly token: PeerToken }
  | { readonly kind: 'gone'; readonly peer: HostNumber }
  | { readonly kind: 'undelivered'; readonly body: Body }
  | { readonly kind: 'read'; readonly token: LocalToken }
  | { readonly kind: 'stored'; readonly block: SimBlock; readonly found: boolean }
  | { readonly kind: 'written'; readonly lengthBytes: number }
  | {
      readonly kind: 'origin';
      readonly attempt: AttemptId;
      readonly block: SimBlock | undefined;
      readonly detail: PeerErrorDetail | undefined;
    }
  | { readonly kind: 'want'; readonly blobs: readonly SimBlob[] }
  | { readonly kind: 'orders'; readonly orders: readonly TouchOrder[] }
  | { readonly kind: 'call-late'; readonly id: number; readonly failure: CallFailure }
  | { readonly kind: 'open-late'; readonly id: number }
  /** The registry sent the one byte that shows a blob's size; `id`: of a host's own probe. */
  | {
      readonly kind: 'stat';
      readonly digest: Digest;
      readonly id: number | undefined;
      readonly ok: boolean;
    }
  /** A mute liar's sign of life. */
  | { readonly kind: 'mute'; readonly token: PeerToken; readonly left: number }
  | { readonly kind: 'tick' };

/** A read of one block by a container, or by the preheater of a host. */
export interface LocalToken {
  readonly kind: 'local';
  readonly block: SimBlock;
  readonly readKind: ReadKind;
  /** The read of the trace that this read belongs to; undefined for others. */
  readonly read: number | undefined;
  readonly startedMs: number;
  /** The first death of a source while its fetch was pending there; undefined when none died. */
  stalled: Stalled | undefined;
}

/** A source died, or hung, with the fetch pending. */
export interface Stalled {
  readonly fromMs: number;
  readonly byRoot: boolean;
}

/** A read by a peer. */
export interface PeerToken {
  readonly kind: 'peer';
  readonly from: HostNumber;
  readonly link: Link;
  readonly attempt: AttemptId;
}
