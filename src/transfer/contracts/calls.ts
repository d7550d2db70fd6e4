import type {
  HostAddress,
  JoinReply,
  JoinRequest,
  LeaveRequest,
  ManifestReply,
  ManifestRequest,
  ReportReply,
  ReportRequest,
  ResolveReply,
  ResolveRequest,
  StatReply,
  StatRequest,
} from '../../tree/messages.ts';
import type { PeerId } from '../../util/peer-id.ts';

/** Calls by name: what each asks, and what it is answered. */
type CallMap<C> = { readonly [K in keyof C]: readonly [request: unknown, reply: unknown] };

/** What hosts that keep trees are asked. */
export interface TreeCalls {
  readonly join: [JoinRequest, JoinReply];
  readonly leave: [LeaveRequest, void];
  readonly report: [ReportRequest, ReportReply];
  readonly resolve: [ResolveRequest, ResolveReply];
  readonly stat: [StatRequest, StatReply];
  readonly manifest: [ManifestRequest, ManifestReply];
}

/** The asking side of calls. */
export interface Caller<C extends CallMap<C>> {
  /** Asks the host. Rejects with PeerError. */
  call<K extends keyof C>(
    host: HostAddress,
    name: K,
    request: C[K][0],
    signal: AbortSignal,
  ): Promise<C[K][1]>;
}

/**
 * The answering side of calls: a call without its handler is refused. Each rejects with any error: the asker gets a code that it
 * can act on, never the text.
 */
export type Handlers<C extends CallMap<C>> = {
  readonly [K in keyof C]?: (peer: PeerId, request: C[K][0]) => Promise<C[K][1]>;
};
