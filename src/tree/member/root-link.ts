import type { Digest } from '../../image/digest.ts';
import { jitter, type Random } from '../../runtime/random.ts';
import { backoffMs } from '../../util/backoff.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { FAILURES_MAX, PROBE_MS_MAX, RETRY_MS, ROOT_DOWN_MS, ROOT_DOWN_MS_MAX } from '../limits.ts';
import type { HostAddress } from '../messages.ts';

/**
 * Why a request to a root has no reply.
 *
 * - `silent`: the root showed no sign of life, though it was asked for one. `failed`: there is no
 *   connection, or no reply in time.
 * - `refused`: the root said no, or that it is overloaded. That is a sign of life.
 */
export type CallFailure = 'silent' | 'failed' | 'refused';

/**
 * A host's knowledge of a root, and its requests in flight there; `S` is the host's part in a
 * stripe.
 *
 * Health: up -> a request fails (it is repeated once) -> down for a while -> up, on probation: the
 * next failure is enough. A root that was silent stays down until it answers a probe, since each
 * new blob would wait for it otherwise.
 */
export class RootLink<S> {
  host: HostAddress;
  /** Seats to be joined here, seats named in the JOIN in flight, and seats held here. */
  readonly waiting = new Set<S>();
  /** Seats that were refused here, and when each is asked for again. */
  readonly refused = new Map<S, number>();
  readonly asked = new Set<S>();
  readonly seated = new Set<S>();
  /** Peers to be reported as lost. */
  readonly lost = new Set<PeerId>();
  /** Blobs whose LEAVE is in flight: a new JOIN waits for it, so that they arrive in this order. */
  readonly leaving = new Set<Digest>();
  joinsUnderWay = 0;
  reportTicket: number | undefined;
  reportDueMs = Number.POSITIVE_INFINITY;
  joinNotBeforeMs = 0;
  #failures = 0;
  #downs = 0;
  #downUntilMs = 0;
  #silent = false;

  constructor(host: HostAddress) {
    this.host = host;
  }

  isDown(nowMs: number): boolean {
    return this.#silent || nowMs < this.#downUntilMs;
  }

  /** The root is down because it was silent: a probe finds out when it is back. */
  get silent(): boolean {
    return this.#silent;
  }

  get downUntilMs(): number {
    return this.#downUntilMs;
  }

  /** The root answered. Returns whether it was silent before. */
  succeed(): boolean {
    const wasSilent = this.#silent;
    this.#failures = 0;
    this.#downs = 0;
    this.#downUntilMs = 0;
    this.#silent = false;
    return wasSilent;
  }

  /** The connection broke: the next failed request is enough to call the root down. */
  suspect(): void {
    this.#failures = Math.max(this.#failures, FAILURES_MAX - 1);
  }

  /**
   * A request failed. Returns whether the root counts as down now. `silent`: it is down at once,
   * until it answers.
   */
  fail(nowMs: number, random: Random, silent: boolean): boolean {
    // What fails together is one silence.
    if (this.#silent && nowMs < this.#downUntilMs) return true;
    this.#failures = silent ? FAILURES_MAX : this.#failures + 1;
    this.#silent ||= silent;
    this.joinNotBeforeMs = nowMs + jitter(random, RETRY_MS, 0.5);
    this.reportDueMs = Math.min(this.reportDueMs, this.joinNotBeforeMs);
    if (this.#failures < FAILURES_MAX) return false;
    const longestMs = this.#silent ? PROBE_MS_MAX : ROOT_DOWN_MS_MAX;
    const base = backoffMs(this.#downs + 1, ROOT_DOWN_MS, longestMs);
    this.#downUntilMs = nowMs + jitter(random, base, 0.5);
    this.#downs++;
    this.#failures = FAILURES_MAX - 1;
    return true;
  }
}
