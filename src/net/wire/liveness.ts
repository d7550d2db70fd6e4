import type { Clock, Timer } from '../../runtime/clock.ts';

/** How patient a watch is, in milliseconds. */
export interface Patience {
  /** Without a byte of a peer that is waited for, until it is asked for a sign of life. */
  readonly pingAfterMs: number;
  /** The same of a peer that is not waited for; such a peer is never asked when absent. */
  readonly pingAfterIdleMs?: number;
  /** For that sign; then the peer is silent. */
  readonly pongMs: number;
  /**
   * A timer that fires this late means that this process stood still: signs of life may lie unread,
   * and have as long to be read.
   */
  readonly lateMsMax: number;
}

/**
 * Watches that a peer is alive: asks for a sign of life when nothing came for a while, soon when
 * something is asked of the peer, seldom or never when not, and says so when none comes. yamux's
 * own keep-alive ping never gives up, and TCP takes minutes.
 *
 * Life: constructed -> `heard()` and `wake()` as things happen -> `stop()`.
 */
export class Liveness {
  readonly #clock: Clock;
  readonly #init: {
    readonly patience: Patience;
    readonly isWaitedFor: () => boolean;
    readonly ping: () => void;
    readonly onSilent: () => void;
    readonly onCheck?: () => void;
  };
  #heardMs: number;
  #awakeMs: number;
  #pingMs: number | undefined;
  #dueMs = 0;
  #timer: Timer | undefined;

  /** `onCheck`: called at every look, for other checks that must run now and then. */
  constructor(
    components: { readonly clock: Clock },
    init: {
      readonly patience: Patience;
      readonly isWaitedFor: () => boolean;
      readonly ping: () => void;
      readonly onSilent: () => void;
      readonly onCheck?: () => void;
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
    this.#timer = undefined;
  }

  /** Milliseconds of quiet allowed now; undefined while quiet means nothing. */
  get #patienceMs(): number | undefined {
    const { pingAfterMs, pingAfterIdleMs } = this.#init.patience;
    return this.#init.isWaitedFor() ? pingAfterMs : pingAfterIdleMs;
  }

  #schedule(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    const patienceMs = this.#patienceMs;
    if (patienceMs === undefined) {
      this.#pingMs = undefined;
      return;
    }
    this.#dueMs =
      this.#pingMs === undefined
        ? Math.max(this.#heardMs, this.#awakeMs) + patienceMs
        : this.#pingMs + this.#init.patience.pongMs;
    const delayMs = Math.max(0, this.#dueMs - this.#clock.nowMs());
    this.#timer = this.#clock.setTimer(delayMs, () => this.#look());
  }

  #look(): void {
    this.#init.onCheck?.();
    if (this.#patienceMs === undefined) return this.#schedule();
    const { pongMs, lateMsMax } = this.#init.patience;
    const nowMs = this.#clock.nowMs();
    const late = nowMs > this.#dueMs + lateMsMax;
    if (this.#pingMs !== undefined && nowMs >= this.#pingMs + pongMs) {
      if (!late) return this.#init.onSilent();
      this.#pingMs = nowMs - pongMs + lateMsMax;
    } else if (this.#pingMs === undefined && nowMs >= this.#dueMs && this.#isQuiet(nowMs)) {
      this.#pingMs = nowMs;
      this.#init.ping();
    }
    this.#schedule();
  }

  #isQuiet(nowMs: number): boolean {
    const patienceMs = this.#patienceMs;
    if (patienceMs === undefined) return false;
    return nowMs >= Math.max(this.#heardMs, this.#awakeMs) + patienceMs;
  }
}
