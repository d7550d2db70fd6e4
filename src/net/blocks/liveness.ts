import type { Clock, Timer } from '../../runtime/clock.ts';
import { PING_AFTER_IDLE_MS, PING_AFTER_MS, PONG_MS } from '../limits.ts';

/** A timer that fires so much late means that this process stood still: the peer's signs of life may lie unread. */
const LATE_MS_MAX = 1_000;

/**
 * Watches that a peer is alive: asks for a sign of life when nothing came for a while, soon when something is asked of the peer,
 * seldom when not, and says so when none comes. yamux's own keep-alive ping never gives up, and TCP takes minutes.
 *
 * Life: constructed -> `heard()` and `wake()` as things happen -> `stop()`.
 */
export class Liveness {
  readonly #clock: Clock;
  readonly #init: {
    readonly isWaitedFor: () => boolean;
    readonly ping: () => void;
    readonly onSilent: () => void;
    readonly onCheck: () => void;
  };
  #heardMs: number;
  #awakeMs: number;
  #pingMs: number | undefined;
  #dueMs = 0;
  #timer: Timer | undefined;

  /** `onCheck`: called at every look, for what else has to be looked at now and then. */
  constructor(
    components: { readonly clock: Clock },
    init: {
      readonly isWaitedFor: () => boolean;
      readonly ping: () => void;
      readonly onSilent: () => void;
      readonly onCheck: () => void;
    },
  ) {
    this.#clock = components.clock;
    this.#init = init;
    this.#heardMs = this.#clock.nowMs();
    this.#awakeMs = this.#heardMs;
    this.#schedule();
  }

  /** Bytes of the peer came. */
  heard(): void {
    this.#heardMs = this.#clock.nowMs();
    this.#pingMs = undefined;
  }

  /** From now on something waits for the peer. */
  wake(): void {
    this.#awakeMs = this.#clock.nowMs();
    this.#schedule();
  }

  stop(): void {
    this.#timer?.cancel();
  }

  #schedule(): void {
    this.#timer?.cancel();
    const patienceMs = this.#init.isWaitedFor() ? PING_AFTER_MS : PING_AFTER_IDLE_MS;
    this.#dueMs =
      this.#pingMs === undefined
        ? Math.max(this.#heardMs, this.#awakeMs) + patienceMs
        : this.#pingMs + PONG_MS;
    const delayMs = Math.max(0, this.#dueMs - this.#clock.nowMs());
    this.#timer = this.#clock.setTimer(delayMs, () => this.#look());
  }

  #look(): void {
    this.#init.onCheck();
    const nowMs = this.#clock.nowMs();
    const late = nowMs > this.#dueMs + LATE_MS_MAX;
    if (this.#pingMs !== undefined && nowMs >= this.#pingMs + PONG_MS) {
      if (!late) return this.#init.onSilent();
      this.#pingMs = nowMs;
    } else if (this.#pingMs === undefined && nowMs >= this.#dueMs && this.#isQuiet(nowMs)) {
      this.#pingMs = nowMs;
      this.#init.ping();
    }
    this.#schedule();
  }

  #isQuiet(nowMs: number): boolean {
    const patienceMs = this.#init.isWaitedFor() ? PING_AFTER_MS : PING_AFTER_IDLE_MS;
    return nowMs >= Math.max(this.#heardMs, this.#awakeMs) + patienceMs;
  }
}
