import type { HostCore } from '../transfer/host/host-core.ts';
import type { MembershipEffect } from '../tree/member/membership.ts';
import type { CallFailure } from '../tree/member/root-link.ts';
import { unreachable } from '../util/assert.ts';
import type { PeerId } from '../util/peer-id.ts';
import type { AgentListener, AgentWorld } from './agent-world.ts';
import type { SimBlock } from './blocks.ts';
import type { LocalToken, PeerToken, TreeAnswer } from './events.ts';
import type { Port } from './network.ts';

/** Longest wait for a root's answer, as in the agent's driver; `silent`: without a sign of life. */
export const CALL_MS_MAX = { failed: 3_000, silent: 1_000 } as const;

/** The tree calls of one agent that wait for their answers. Times are of the agent's own clock. */
export class SimCalls {
  readonly #world: AgentWorld;
  readonly #port: Port;
  readonly #core: HostCore<SimBlock, LocalToken | PeerToken>;
  readonly #listener: AgentListener;
  readonly #waiting = new Map<number, MembershipEffect>();
  #count = 0;

  constructor(components: {
    readonly world: AgentWorld;
    readonly port: Port;
    readonly core: HostCore<SimBlock, LocalToken | PeerToken>;
    readonly listener: AgentListener;
  }) {
    this.#world = components.world;
    this.#port = components.port;
    this.#core = components.core;
    this.#listener = components.listener;
  }

  /** Sends a call, at this time of the world. */
  make(effect: MembershipEffect, atMs: number): void {
    const id = ++this.#count;
    this.#waiting.set(id, effect);
    const { network, events } = this.#world;
    const { number: host, incarnation, links } = this.#port;
    const to = this.#world.numberOf(effect.owner.peer);
    // Roots answer from memory, so a late answer means a root that stands still or is cut off.
    const item = { kind: 'call-late', id, failure: links.has(to) ? 'silent' : 'failed' } as const;
    network.send({ from: host, to, atMs }, { kind: 'call', id, call: effect });
    events.push(atMs + CALL_MS_MAX[item.failure], { type: 'item', host, incarnation, item });
  }

  /** `nowMs`: of the world. */
  answered(
    id: number,
    answer: TreeAnswer,
    { nowMs, localMs }: { readonly nowMs: number; readonly localMs: number },
  ): void {
    const call = this.#waiting.get(id);
    if (call === undefined) return;
    switch (answer.type) {
      case 'join':
        this.#waiting.delete(id);
        this.#core.joinReply(call.ticket, answer.reply, localMs);
        return this.#listener.placed(answer.reply, nowMs);
      case 'report':
        this.#waiting.delete(id);
        this.#core.reportReply(call.ticket, answer.reply, localMs);
        return this.#listener.placed(answer.reply, nowMs);
      case 'leave':
        this.#waiting.delete(id);
        return this.#core.leaveDone(call.ticket, localMs);
      case 'refused':
        return this.failed(id, localMs, 'refused');
      default:
        return unreachable(answer);
    }
  }

  failed(id: number, localMs: number, failure: CallFailure): void {
    const call = this.#waiting.get(id);
    if (call === undefined) return;
    this.#waiting.delete(id);
    switch (call.kind) {
      case 'join':
        return this.#core.joinFailed(call.ticket, localMs, failure);
      case 'report':
        return this.#core.reportFailed(call.ticket, localMs, failure);
      case 'leave':
        return this.#core.leaveDone(call.ticket, localMs);
      default:
        return unreachable(call);
    }
  }

  /** The peer is gone: what waits for its answer has failed. */
  gone(peer: PeerId, localMs: number): void {
    for (const [id, call] of [...this.#waiting]) {
      if (call.owner.peer === peer) this.failed(id, localMs, 'failed');
    }
  }
}
