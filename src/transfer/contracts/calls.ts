import type * as tree from '../../tree/messages.ts';
import type { PresenceReply, PresenceRequest } from '../../tree/presence.ts';
import type { PeerId } from '../../util/peer-id.ts';

/** Calls by name: what each asks, and what it is answered. */
type CallMap<C> = { readonly [K in keyof C]: readonly [request: unknown, reply: unknown] };

/** What hosts that keep trees are asked. */
export interface TreeCalls {
  readonly join: [tree.JoinRequest, tree.JoinReply];
  readonly leave: [tree.LeaveRequest, void];
  readonly report: [tree.ReportRequest, tree.ReportReply];
  readonly resolve: [tree.ResolveRequest, tree.ResolveReply];
  readonly 'open-blob': [tree.OpenRequest, tree.OpenReply];
  readonly 'wrong-blob': [tree.WrongBlobReport, tree.WrongBlobReply];
  readonly presence: [PresenceRequest, PresenceReply];
  readonly manifest: [tree.ManifestRequest, tree.ManifestReply];
}

/** The asking side of calls. */
export interface Caller<C extends CallMap<C>> {
  /** Asks the host. Rejects with PeerError. */
  call<K extends keyof C>(
    host: tree.HostAddress,
    name: K,
    request: C[K][0],
    signal: AbortSignal,
  ): Promise<C[K][1]>;
}

/**
 * The answering side of calls: a call without its handler is refused. Each rejects with any error:
 * the asker gets a code that it can act on, never the text.
 */
export type Handlers<C extends CallMap<C>> = {
  readonly [K in keyof C]?: (peer: PeerId, request: C[K][0]) => Promise<C[K][1]>;
};
