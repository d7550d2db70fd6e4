import type { BlobOrigin } from '../image/block.ts';
import type { JoinReply, ReportReply } from '../tree/messages.ts';
import { assert } from '../util/assert.ts';
import type { PeerId } from '../util/peer-id.ts';
import type { BlockLibrary, SimBlock } from './blocks.ts';
import type { Checker } from './checker.ts';
import * as costs from './costs.ts';
import type { EventHeap } from './event-heap.ts';
import type { HostNumber, Item, LocalToken, PeerToken, SimEvent } from './events.ts';
import type { Network } from './network.ts';
import type { Registry } from './registry.ts';

/** Receives the results that the agent has for its host. */
export interface AgentListener {
  answered(token: LocalToken, block: SimBlock, atMs: number): void;
  failed(token: LocalToken, code: string, atMs: number): void;
  /** An owner answered with places. */
  placed(reply: JoinReply | ReportReply, atMs: number): void;
}

/**
 * Defects that tests plant: agents accept any bytes as verified (`unverified`); owners place a host
 * below itself (`cycle`); owners accept twice as many children as the bound allows (`wide`).
 */
export type Planted = 'unverified' | 'cycle' | 'wide';

/** A host's request to another host. */
export interface Ask {
  readonly to: HostNumber;
  readonly block: SimBlock;
}

/** How an agent misbehaves. */
export type Lie = 'corrupt' | 'not-found' | 'mute';

/** The world around the agents. */
export interface AgentWorld {
  readonly events: EventHeap<SimEvent>;
  readonly network: Network;
  readonly registry: Registry;
  readonly library: BlockLibrary;
  readonly checker: Checker;
  readonly originName: BlobOrigin;
  /** Blocks that any program on any host wanted. */
  readonly touched: Set<SimBlock>;
  readonly planted: Planted | undefined;
  /** Whether clients name blobs by URL, so that hosts open each by the word of a root. */
  readonly opens: boolean;
  numberOf(peer: PeerId): HostNumber;
  peerOf(host: HostNumber): PeerId;
}

/** CPU time of the agent's thread for accepting the item, in milliseconds. */
export function costOf(item: Item): number {
  switch (item.kind) {
    case 'message': {
      const { body } = item.delivery;
      if (body.kind === 'block') return body.block.lengthBytes * costs.RECEIVE_MS_PER_BYTE;
      if (body.kind === 'call' && body.call.kind === 'join') return costs.JOIN_MS;
      return costs.MESSAGE_MS / 2;
    }
    case 'origin':
      return (item.block?.lengthBytes ?? 0) * costs.RECEIVE_MS_PER_BYTE;
    case 'read':
      return costs.MESSAGE_MS;
    case 'sent':
    case 'written':
    case 'mute':
    case 'call-late':
      return 0;
    default:
      return costs.MESSAGE_MS / 5;
  }
}

/** A number for a peer's request; room for 2^30 requests per host. */
export function incomingKey(from: HostNumber, attempt: number): number {
  return from * 2 ** 30 + attempt;
}

/** The token of a read that this host itself asked for. */
export function asLocal(token: LocalToken | PeerToken): LocalToken {
  assert(token.kind === 'local', "this host's own read was answered to a peer");
  return token;
}

/** The token of a read that a peer asked for. */
export function asPeer(token: LocalToken | PeerToken): PeerToken {
  assert(token.kind === 'peer', "a peer's read was answered to this host");
  return token;
}
