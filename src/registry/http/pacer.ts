import { createHash } from 'node:crypto';
import type { Clock } from '../../runtime/clock.ts';
import { DeadlineError } from '../../runtime/deadline.ts';
import { defined } from '../../util/assert.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { Limiter } from '../../util/limiter.ts';
import { orAbort } from '../../util/or-abort.ts';
import { TokenBucket } from '../../util/token-bucket.ts';
import { RegistryError } from '../errors.ts';
import type { RegistryMetrics } from '../metrics.ts';

/** Longest `Retry-After` that is kept: after it the server is asked again. (tunable) */
const PAUSE_MS_MAX = 5 * 60_000;

/** Requests in line in one lane: as many as the agent has operations in flight. */
const WAITING_MAX = 1024;

/**
 * Hosts that are not configured and yet known at a time; the one asked least recently is forgotten.
 */
const OTHER_HOSTS_MAX = 1024;

/** Pauses of one server in one lane; the oldest is forgotten, and the server asked again. */
const PAUSES_MAX = 256;

const LANES = ['own', 'asked', 'nobody', 'client'] as const;

/**
 * For whom a server is asked. What it says of patience holds for the lane that it said it to, and
 * there for what was asked of it (`Asking`), so that nobody who names a repository, or who is
 * limited, has it left alone for others:
 *
 * - `own`: the agent reads or writes what it already knows.
 * - `asked`: the agent asks, by its own credentials, about what somebody named.
 * - `nobody`: the same without credentials.
 * - `client`: a local client's request.
 */
export type Lane = (typeof LANES)[number];

/** What a request asks a server for. */
export interface Asking {
  /** Empty when it names none. */
  readonly repository: string;
  /** What a local client shows: servers limit each user apart. */
  readonly authorization?: string | undefined;
}

interface PacerComponents {
  readonly clock: Clock;
  readonly metrics: RegistryMetrics;
}

/** What one server is asked in a second, by all lanes together: they take turns. */
class Rate {
  readonly #clock: Clock;
  readonly #bucket: TokenBucket;
  readonly #line = new Limiter({ runningMax: 1, waitingMax: LANES.length });

  /** The burst is what a second allows. */
  constructor(clock: Clock, perSecond: number) {
    this.#clock = clock;
    this.#bucket = new TokenBucket({ perSecond, burst: Math.max(1, perSecond) });
  }

  /** Each lane has one request at most here. */
  async take(signal: AbortSignal): Promise<void> {
    const taken = this.#line.run(() => this.#take(signal));
    return defined(taken, 'the lanes have places in the line');
  }

  async #take(signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      const nowMs = this.#clock.nowMs();
      if (this.#bucket.take(1, nowMs)) return;
      await this.#clock.sleep(this.#bucket.readyMs(1, nowMs) - nowMs, signal);
    }
  }
}

/**
 * When one server may be asked in one lane: at a bounded rate, in arrival order, and for what it
 * was to be left alone not before the time that it named.
 */
class Pacer {
  readonly #components: PacerComponents;
  readonly #host: string;
  readonly #rate: Rate | undefined;
  readonly #line = new Limiter({ runningMax: 1, waitingMax: WAITING_MAX });
  /** Until when, by what was asked for. */
  readonly #pauses = new BoundedMap<string, number>({ entriesMax: PAUSES_MAX });

  constructor(
    components: PacerComponents,
    init: { readonly host: string; readonly rate: Rate | undefined },
  ) {
    this.#components = components;
    this.#host = init.host;
    this.#rate = init.rate;
  }

  /** The server asked to be left alone for so long (`Retry-After`) when it was asked for this. */
  pause(asking: Asking, pauseMs: number): void {
    const name = nameOf(asking);
    const untilMs = this.#components.clock.nowMs() + Math.min(pauseMs, PAUSE_MS_MAX);
    this.#pauses.set(name, Math.max(this.#pauses.get(name) ?? 0, untilMs));
  }

  /**
   * Resolves when a request may leave. Rejects with RegistryError (`rate-limited`, at once, during
   * a pause; `overloaded` when the line is full, or a plain deadline passes in it), or with the
   * signal's reason.
   */
  async turn(asking: Asking, signal: AbortSignal): Promise<void> {
    this.#checkPause(asking);
    const rate = this.#rate;
    if (rate === undefined) return;
    const { clock, metrics } = this.#components;
    const startedMs = clock.nowMs();
    const turn = this.#line.run(() => rate.take(signal));
    if (turn === undefined) throw this.#overloaded(`${WAITING_MAX} requests wait already`);
    try {
      await orAbort(turn, signal);
    } catch (error) {
      // The server was not silent: it was not asked.
      if (error instanceof DeadlineError) throw this.#overloaded('its turn came too late');
      throw error;
    }
    metrics.heldSeconds.inc({}, (clock.nowMs() - startedMs) / 1000);
    this.#checkPause(asking);
  }

  #overloaded(why: string): RegistryError {
    return new RegistryError(`${this.#host} was not asked: ${why}`, { code: 'overloaded' });
  }

  #checkPause(asking: Asking): void {
    if (this.#pauses.count === 0) return;
    const name = nameOf(asking);
    const retryAfterMs = (this.#pauses.get(name) ?? 0) - this.#components.clock.nowMs();
    if (retryAfterMs <= 0) return void this.#pauses.delete(name);
    const what =
      `${this.#host} was not asked: ` +
      `it wants to be left alone for another ${Math.ceil(retryAfterMs)} ms`;
    throw new RegistryError(what, { code: 'rate-limited', retryAfterMs });
  }
}

/** Credentials stand in it as their hash. */
function nameOf({ repository, authorization }: Asking): string {
  if (authorization === undefined) return repository;
  return `${repository} ${createHash('sha256').update(authorization).digest('base64')}`;
}

type Lanes = Readonly<Record<Lane, Pacer>>;

/** The pacers of all hosts: one for each lane, shared by all requests in it. */
export class Pacers {
  readonly #components: PacerComponents;
  readonly #requestsPerSecond: number | undefined;
  readonly #configured: ReadonlyMap<string, Lanes>;
  readonly #others = new BoundedMap<string, Lanes>({ entriesMax: OTHER_HOSTS_MAX, evict: 'use' });

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

  of(host: string, lane: Lane): Pacer {
    const known = this.#configured.get(host) ?? this.#others.get(host);
    if (known !== undefined) return known[lane];
    const lanes = this.#make(host);
    this.#others.set(host, lanes);
    return lanes[lane];
  }

  #make(host: string): Lanes {
    const perSecond = this.#requestsPerSecond;
    const rate = perSecond === undefined ? undefined : new Rate(this.#components.clock, perSecond);
    const lane = (): Pacer => new Pacer(this.#components, { host, rate });
    return { own: lane(), asked: lane(), nobody: lane(), client: lane() };
  }
}
