import type { BlobOrigin, BlockIndex } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import { LAYER_COUNT_MAX } from '../image/manifest.ts';
import type { Caller } from '../transfer/contracts/calls.ts';
import { CodedError, errorText } from '../util/errors.ts';
import type { PeerId } from '../util/peer-id.ts';

/**
 * Parts of an image that a preheat brings: `image` is everything that a pull or a mount may read,
 * `trace` the blocks that the image's trace names.
 */
export const PREHEAT_PARTS = ['image', 'trace'] as const;
/** Part of an image that a preheat brings; see `PREHEAT_PARTS`. */
export type PreheatPart = (typeof PREHEAT_PARTS)[number];

/** States of a preheat, on one host or as a whole. The last three are final. */
export const PREHEAT_STATES = ['waiting', 'running', 'done', 'failed', 'cancelled'] as const;
/** State of a preheat; see `PREHEAT_STATES`. */
export type PreheatState = (typeof PREHEAT_STATES)[number];

/**
 * Reasons why a preheat failed.
 *
 * - Of a host. `image`: its manifest or its layers are not what they should be. `no-trace`: the
 *   image ships none. `quota`: more than the store may keep. `unavailable`: blocks did not come.
 *   `store`: the store did not keep the blocks. `busy`: too many preheats wait there. `lost`: the
 *   host no longer answers. `stopped`: the host stops. `missing`: the registry has not got all of
 *   the image; the rest is there.
 * - Of a job. `not-found`, `refused`: what the registry said of the image or of a part of it.
 *   `protocol`: it answered with what is no part of it. `no-hosts`: none matches. `hosts`: some
 *   hosts failed. `timeout`: it took too long. `missing`: as of a host.
 */
export const PREHEAT_FAILURES = [
  'image',
  'no-trace',
  'quota',
  'unavailable',
  'store',
  'busy',
  'lost',
  'stopped',
  'not-found',
  'refused',
  'no-hosts',
  'hosts',
  'timeout',
  'missing',
  'protocol',
] as const;
/** Reason why a preheat failed; see `PREHEAT_FAILURES`. */
export type PreheatFailure = (typeof PREHEAT_FAILURES)[number];

/** What to bring, and to which hosts. */
export interface PreheatSpec {
  /** `host[:port]/name[:tag][@digest]`. */
  readonly reference: string;
  readonly part: PreheatPart;
  /** Whether each host keeps the image longest from here on. */
  readonly pin: boolean;
  /** Only hosts of this zone. */
  readonly zone?: string;
  /** At most this many of the hosts, spread over their zones; all hosts when absent. */
  readonly count?: number;
}

/** Progress of a preheat on one host. */
export interface HostProgress {
  readonly state: PreheatState;
  readonly doneBytes: number;
  /** Bytes to bring; 0 until known. */
  readonly totalBytes: number;
  readonly failure?: PreheatFailure;
  /** Why it failed, in words. */
  readonly reason?: string;
  /** A block that does not come: the root finds out why. */
  readonly stuck?: StuckBlock;
}

/** A block that nobody gives to a host. */
export interface StuckBlock {
  readonly digest: Digest;
  readonly index: BlockIndex;
}

/** A blob that the image names and its registry has not got. */
export interface MissingBlob {
  readonly digest: Digest;
  /** It need not: the image says that it is to be had elsewhere, or not to be passed on. */
  readonly isForeign: boolean;
}

/** Most blobs of an image: its layers and its config. */
export const MISSING_MAX = LAYER_COUNT_MAX + 1;

/** Longest `reason`, in characters. */
export const REASON_LENGTH_MAX = 500;

/** Why something failed, as it crosses the wire and is shown to people. */
export function reasonOf(error: unknown): string {
  return errorText(error)
    .replaceAll(/[^ -~]/g, '?')
    .slice(0, REASON_LENGTH_MAX);
}

/** Progress of a preheat on one host, with the host's name, as its root reports it. */
export interface PreheatHost extends Omit<HostProgress, 'reason' | 'stuck'> {
  readonly peer: PeerId;
  readonly zone: string;
}

/** 128 random bits in hex: a client can only know an id that it was given. */
export const PREHEAT_ID = /^[0-9a-f]{32}$/;

/** Hex digits that a number in JSON holds without loss: 52 bits. */
const NUMBER_DIGITS = 13;

/**
 * The number of a preheat, for clients that take no other name: the first bits of its id. Roots
 * also find a preheat by its number.
 */
export function preheatNumber(id: string): number {
  return Number.parseInt(id.slice(0, NUMBER_DIGITS), 16);
}

/** A preheat as the root that leads it knows it. */
export interface PreheatJob {
  /** As PREHEAT_ID says. */
  readonly id: string;
  readonly spec: PreheatSpec;
  readonly state: PreheatState;
  readonly failure?: PreheatFailure;
  /** Why it failed, in words; of hosts, why the first of them did. */
  readonly reason?: string;
  /** What the registry has not got: the hosts have the rest. */
  readonly missing: readonly MissingBlob[];
  /** Of the manifest; absent until it is known. */
  readonly digest?: Digest;
  /** Milliseconds since 1970. */
  readonly startedMs: number;
  readonly finishedMs?: number;
  readonly hosts: readonly PreheatHost[];
}

/** An agent asks a root: to lead a preheat, how it stands, to end it. */
export type PreheatRequest =
  | { readonly action: 'start'; readonly id: string; readonly spec: PreheatSpec }
  | { readonly action: 'status' | 'cancel'; readonly id: string };

/** An image for a host to bring in. */
export interface PreheatOrder {
  readonly reference: string;
  readonly digest: Digest;
  readonly manifest: Uint8Array;
  readonly origin: BlobOrigin;
  readonly part: PreheatPart;
  readonly pin: boolean;
}

/** A root asks a host: who it is, to bring in an image, how far it is, to give up. */
export type HostPreheatRequest =
  | { readonly action: 'ask' }
  | { readonly action: 'start'; readonly id: string; readonly order: PreheatOrder }
  /** `missing`: what the registry has not got. */
  | { readonly action: 'status'; readonly id: string; readonly missing: readonly Digest[] }
  | { readonly action: 'cancel'; readonly id: string };

/** A host's answer to `HostPreheatRequest`. */
export interface HostPreheatReply {
  readonly zone: string;
  /** Absent when the host does not know the preheat. */
  readonly progress?: HostProgress;
}

/**
 * Calls about preheats. Only roots may call `host-preheat`: the only call answered by a host that
 * keeps no trees.
 */
export interface PreheatCalls {
  readonly preheat: [PreheatRequest, PreheatJob];
  readonly 'host-preheat': [HostPreheatRequest, HostPreheatReply];
}

/** The part of the transport that preheats use. */
export interface PreheatTransport extends Caller<PreheatCalls> {
  /** Peers with an admitted connection. */
  peers(): readonly PeerId[];
}

/**
 * Preheats as the admin endpoint starts and shows them, by id or by number. Rejects with
 * PreheatError.
 */
export interface PreheatService {
  /** Only a root accepts a preheat that pins. */
  start(spec: PreheatSpec): Promise<PreheatJob>;
  get(id: string): Promise<PreheatJob>;
  /** Blocks that arrived stay where they are. */
  cancel(id: string): Promise<PreheatJob>;
}

/**
 * Why a preheat was not begun, or not found. `full`: the maximum number of preheats is in flight.
 */
export class PreheatError extends CodedError<
  | { readonly code: 'full' }
  | { readonly code: 'not-found' }
  | { readonly code: 'refused' }
  | { readonly code: 'unreachable' }
> {}

/** Whether a preheat in this state will not change any more. */
export function isFinal(state: PreheatState): boolean {
  return state !== 'waiting' && state !== 'running';
}
