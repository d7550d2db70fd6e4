import type { Clock } from '../../runtime/clock.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { Limiter } from '../../util/limiter.ts';
import { orAbort } from '../../util/or-abort.ts';
import { TokenBucket } from '../../util/token-bucket.ts';
import { RegistryError } from '../errors.ts';
import type { RegistryMetrics } from '../metrics.ts';

/** Longest `Retry-After` that is kept: after it the server is asked again. (tunable) */
const PAUSE_MS_MAX = 5 * 60_000;

/** Requests in line for one server: as many as the agent has operations in flight. */
const WAITING_MAX = 1024;

/**
 * Hosts that are not configured and yet known at a time; the one asked least recently is forgotten.
 */
const OTHER_HOSTS_MAX = 1024;

interface PacerComponents {
  readonly clock: Clock;
  readonly metrics: RegistryMetrics;
}

/**
 * When one server may be asked: at a bounded rate, in arrival order, and not before the time that
 * it named.
 */
class Pacer {
  readonly #components: PacerComponents;
  readonly #host: string;
  readonly #bucket: TokenBucket | undefined;
  readonly #line = new Limiter({ runningMax: 1, waitingMax: WAITING_MAX });
  #pausedUntilMs = 0;

  /** The burst is what a second allows. */
  constructor(
    components: PacerComponents,
    init: { readonly host: string; readonly requestsPerSecond: number | undefined },
  ) {
    this.#components = components;
    this.#host = init.host;
    const perSecond = init.requestsPerSecond;
    if (perSecond !== undefined) {
      this.#bucket = new TokenBucket({ perSecond, burst: Math.max(1, perSecond) });
    }
  }

  /** The server asked to be left alone for so long (`Retry-After`). */
  pause(pauseMs: number): void {
    const untilMs = this.#components.clock.nowMs() + Math.min(pauseMs, PAUSE_MS_MAX);
    this.#pausedUntilMs = Math.max(this.#pausedUntilMs, untilMs);
  }

  /**
   * Resolves when a request may leave. Rejects with RegistryError (`rate-limited`, at once, during
   * a pause), or with the signal's reason.
   */
  async turn(signal: AbortSignal): Promise<void> {
    this.#checkPause();
    const bucket = this.#bucket;
    if (bucket === undefined) return;
    const { clock, metrics } = this.#components;
    const startedMs = clock.nowMs();
    const turn = this.#line.run(() => this.#take(bucket, signal));
    if (turn === undefined) {
      const what = `${this.#host} was not asked: ${WAITING_MAX} requests wait already`;
      throw new RegistryError(what, { code: 'overloaded' });
    }
    await orAbort(turn, signal);
    metrics.heldSeconds.inc({}, (clock.nowMs() - startedMs) / 1000);
    this.#checkPause();
  }

  async #take(bucket: TokenBucket, signal: AbortSignal): Promise<void> {
    const { clock } = this.#components;
    for (;;) {
      signal.throwIfAborted();
      const nowMs = clock.nowMs();
      if (bucket.take(1, nowMs)) return;
      await clock.sleep(bucket.readyMs(1, nowMs) - nowMs, signal);
    }
  }

  #checkPause(): void {
    const retryAfterMs = this.#pausedUntilMs - this.#components.clock.nowMs();
    if (retryAfterMs <= 0) return;
    const what =
      `${this.#host} was not asked: ` +
      `it wants to be left alone for another ${Math.ceil(retryAfterMs)} ms`;
    throw new RegistryError(what, { code: 'rate-limited', retryAfterMs });
  }
}

/** The pacers of all hosts: one each, shared by all requests to it. */
export class Pacers {
  readonly #components: PacerComponents;
  readonly #requestsPerSecond: number | undefined;
  readonly #configured: ReadonlyMap<string, Pacer>;
  readonly #others = new BoundedMap<string, Pacer>({ entriesMax: OTHER_HOSTS_MAX, evict: 'use' });

  /** Hosts as URLs name them. */
  constructor(
    components: PacerComponents,
    init: {
      readonly configured: Iterable<string>;
      readonly requestsPerSecond: number | undefined;
    },
  ) {
    this.#components = components;
    this.#requestsPerSecond = init.requestsPerSecond;
    this.#configured = new Map([...init.configured].map((host) => [host, this.#make(host)]));
  }

  of(host: string): Pacer {
    const known = this.#configured.get(host) ?? this.#others.get(host);
    if (known !== undefined) return known;
    const pacer = this.#make(host);
    this.#others.set(host, pacer);
    return pacer;
  }

  #make(host: string): Pacer {
    return new Pacer(this.#components, { host, requestsPerSecond: this.#requestsPerSecond });
  }
}
