import type { Clock, Timer } from '../../runtime/clock.ts';
import { DeadlineError, within } from '../../runtime/deadline.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { HostAddress } from '../../tree/messages.ts';
import { defined } from '../../util/assert.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { errorText } from '../../util/errors.ts';
import { PeerError } from '../contracts/transport.ts';
import { PeerHealth, type LifeSign } from '../host/peer-health.ts';

/** One call that any of a few hosts may answer. */
export interface Question<R> {
  /**
   * Name of the call: the times of its answers set how long a host waits before it asks the next
   * one.
   */
  readonly call: string;
  /** Hosts to ask, best first. */
  readonly hosts: readonly HostAddress[];
  readonly ask: (host: HostAddress, signal: AbortSignal) => Promise<R>;
  /** Longest wait for one host, in milliseconds. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
  /** Whether an error is an answer, so that no other host is asked. */
  readonly isFinal?: (error: unknown) => boolean;
  /** For a call that must not be made twice: the next host is asked when this one has failed. */
  readonly oneByOne?: boolean;
}

/** No host was known that could be asked. */
export class NobodyError extends Error {
  override name = 'NobodyError';
}

interface Components {
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * Asks roots and relays: the next one when the first is late or has failed, silent ones last. The
 * first answer counts, and the other calls are cancelled. All callers share one memory of the
 * health of peers.
 */
export class AskRoots {
  /** Health of the peers. */
  readonly health = new PeerHealth();
  readonly #components: Components;

  constructor(components: Components) {
    this.#components = components;
  }

  /** The peer showed no sign of life while blocks were asked of it. */
  silent(peer: PeerId): void {
    this.health.silent(peer, this.#components.clock.nowMs());
  }

  /**
   * The first answer. Rejects with a final error, with a host's error when all fail, or with the
   * signal's reason.
   */
  async ask<R>(question: Question<R>): Promise<R> {
    const { clock } = this.#components;
    question.signal?.throwIfAborted();
    const byPeer = new Map(question.hosts.map((host) => [host.peer, host]));
    const peers = this.health.order([...byPeer.keys()], clock.nowMs());
    const hosts = peers.map((peer) => defined(byPeer.get(peer), 'a host that may be asked'));
    if (hosts.length === 0) throw new NobodyError('no host is known that could be asked');
    this.health.called();
    const parts = { ...this.#components, health: this.health };
    return new Round(parts, question, hosts).run();
  }
}

interface RoundComponents extends Components {
  readonly health: PeerHealth;
}

/** One question in flight. */
class Round<R> {
  readonly #components: RoundComponents;
  readonly #question: Question<R>;
  readonly #hosts: readonly HostAddress[];
  readonly #result = Promise.withResolvers<R>();
  /** Cancels the calls in flight once the question has ended. */
  readonly #end = new AbortController();
  readonly #running = new Set<HostAddress>();
  #next = 0;
  #failure: unknown;
  #timer: Timer | undefined;

  constructor(components: RoundComponents, question: Question<R>, hosts: readonly HostAddress[]) {
    this.#components = components;
    this.#question = question;
    this.#hosts = hosts;
  }

  async run(): Promise<R> {
    const { signal } = this.#question;
    const onAbort = (): void => this.#result.reject(signal?.reason as Error);
    signal?.addEventListener('abort', onAbort, { once: true });
    this.#askNext();
    try {
      return await this.#result.promise;
    } finally {
      signal?.removeEventListener('abort', onAbort);
      this.#timer?.cancel();
      this.#end.abort(new Error('another host answered'));
    }
  }

  #askNext(): void {
    const host = this.#hosts[this.#next];
    if (host === undefined) return;
    this.#next++;
    this.#running.add(host);
    void this.#ask(host);
    this.#timer?.cancel();
    if (this.#question.oneByOne === true || this.#next === this.#hosts.length) return;
    const { clock, health } = this.#components;
    const patienceMs = health.patienceMs(this.#question.call);
    this.#timer = clock.setTimer(patienceMs, () => {
      if (health.takeHedge()) this.#askNext();
    });
  }

  async #ask(host: HostAddress): Promise<void> {
    const { clock, health } = this.#components;
    const { call, ask, timeoutMs } = this.#question;
    const startedMs = clock.nowMs();
    try {
      const limits = { signal: this.#end.signal };
      const answer = await within(clock, timeoutMs, (signal) => ask(host, signal), limits);
      this.#running.delete(host);
      health.answered(host.peer, call, clock.nowMs() - startedMs);
      if (!this.#end.signal.aborted) this.#onAnswer(answer);
    } catch (error) {
      this.#running.delete(host);
      if (!this.#end.signal.aborted) this.#onFailure(host, error);
    }
  }

  #onAnswer(answer: R): void {
    const { clock, health } = this.#components;
    for (const late of this.#running) {
      if (this.#hosts.indexOf(late) < this.#next - 1) health.late(late.peer, clock.nowMs());
    }
    this.#result.resolve(answer);
  }

  #onFailure(host: HostAddress, error: unknown): void {
    const { health, clock, logger } = this.#components;
    const { call, isFinal } = this.#question;
    noteFailure(health, { peer: host.peer, error, nowMs: clock.nowMs() });
    if (isFinal?.(error) === true) return this.#result.reject(error as Error);
    logger.warn({ root: host.peer, call, error: errorText(error) }, 'a root did not answer');
    if (this.#failure === undefined || isWord(error) || !isWord(this.#failure))
      this.#failure = error;
    if (this.#next < this.#hosts.length) this.#askNext();
    else if (this.#running.size === 0) this.#result.reject(this.#failure as Error);
  }
}

/** Notes what a failed call says of the peer. */
export function noteFailure(
  health: PeerHealth,
  {
    peer,
    error,
    nowMs,
  }: { readonly peer: PeerId; readonly error: unknown; readonly nowMs: number },
): void {
  const sign = lifeSignOf(error);
  if (sign !== undefined) health[sign](peer, nowMs);
}

/**
 * What the error of a call says of the peer: silence when it was not there, life when it said
 * anything; undefined when the call was given up while the peer lived.
 */
export function lifeSignOf(error: unknown): LifeSign | undefined {
  const code = error instanceof PeerError ? error.code : undefined;
  if (code === 'unreachable' || code === 'timeout') return 'silent';
  return isWord(error) ? 'heard' : undefined;
}

/** Whether the error is something that the peer said. */
function isWord(error: unknown): boolean {
  if (!(error instanceof PeerError)) return !(error instanceof DeadlineError);
  return !['unreachable', 'timeout', 'cancelled'].includes(error.code);
}
