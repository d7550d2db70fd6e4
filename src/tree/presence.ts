import type { PeerId } from '../util/peer-id.ts';
import type { HostCard } from './messages.ts';

/** Peers that are asked about in one call. */
export const ASKED_MAX = 256;

/** A host as people know it. */
export interface HostName {
  readonly peer: PeerId;
  /** What the host calls itself. */
  readonly name: string;
  readonly zone: string;
  /** The multiaddr at which it is dialled first; empty: none is known. */
  readonly address: string;
}

/** Any host to a root or a relay: it is there, and who it is. */
export interface PresenceRequest {
  readonly host: HostCard;
  readonly name: string;
  /** 32 hex digits, made anew by each process: two hosts with one identity differ in it. */
  readonly run: string;
  /** The roots that it knows. */
  readonly roots: readonly PeerId[];
  /** Whose names it wants to know. */
  readonly asked: readonly PeerId[];
}

/** Whether another host could connect to the asker. */
export const REACHES = ['unknown', 'reached', 'not-reached'] as const;

/** What a root or relay says of a host that is there. */
export interface PresenceReply {
  readonly reach: (typeof REACHES)[number];
  /** Of one that was not reached: what was tried, and how it failed. */
  readonly tried: string;
  /** Another host with the same identity; empty: none. */
  readonly twin: string;
  /** Of the roots that the asker knows, those that the answerer does not know. */
  readonly strangers: readonly PeerId[];
  /** Of the answerer, and of those of the asked that it knows. */
  readonly names: readonly HostName[];
}
