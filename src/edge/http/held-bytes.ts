import type { ServerResponse } from 'node:http';
import type { Clock, Timer } from '../../runtime/clock.ts';
import type { Counter, Gauge } from '../../runtime/metrics.ts';
import { assert } from '../../util/assert.ts';

/**
 * A program of this host takes its answer within milliseconds; one that has not done so for this
 * long is cut when others wait. (tunable)
 */
const PATIENCE_MS = 2_000;

/** How often that is looked at while somebody waits. */
const LOOK_MS = 500;

/** Room that one answer has taken. */
interface Hold {
  readonly bytes: number;
  /** The answer that its client has to take something of, and since when. */
  handed?: { readonly response: ServerResponse; readonly sinceMs: number };
}

interface Waiting {
  readonly bytes: number;
  readonly go: () => void;
}

interface Components {
  readonly clock: Clock;
  /** What is held, in bytes. */
  readonly gauge: Pick<Gauge, 'set'>;
  /** Answers that were cut for others. */
  readonly cut: Pick<Counter, 'inc'>;
}

/**
 * Bounds the memory of answers from before they are read until their clients have taken them: to
 * hand bytes to a socket does not free them. An answer that finds no room waits; meanwhile
 * answers that their clients have not taken for `PATIENCE_MS` are cut off, oldest first.
 */
export class HeldBytes {
  readonly #parts: Components;
  readonly #bytesMax: number;
  readonly #kind: { readonly kind: string };
  readonly #holds = new Set<Hold>();
  readonly #line = new Set<Waiting>();
  #heldBytes = 0;
  #look: Timer | undefined;

  /** `kind`: the label of the metrics. */
  constructor(components: Components, init: { readonly bytesMax: number; readonly kind: string }) {
    this.#parts = components;
    this.#bytesMax = init.bytesMax;
    this.#kind = { kind: init.kind };
  }

  /**
   * Runs `task` once there is room for `bytes`, at most the whole bound, and gives that back when
   * the task has ended and, unless it failed, the response has been closed. Rejects with the task's
   * error, or with the signal's reason while it waits.
   */
  async run(
    answer: {
      readonly response: ServerResponse;
      readonly bytes: number;
      readonly signal: AbortSignal;
    },
    task: (client: ClientWait) => Promise<void>,
  ): Promise<void> {
    const { response, bytes, signal } = answer;
    const hold = await this.#take(bytes, signal);
    const hand = (): void => {
      hold.handed = { response, sinceMs: this.#parts.clock.nowMs() };
    };
    try {
      await task(async (taken) => {
        hand();
        await taken;
        delete hold.handed;
      });
    } catch (error) {
      this.#giveBack(hold);
      throw error;
    }
    if (response.closed) return this.#giveBack(hold);
    hand();
    response.once('close', () => this.#giveBack(hold));
  }

  async #take(bytes: number, signal: AbortSignal): Promise<Hold> {
    assert(bytes <= this.#bytesMax, `${bytes} bytes never find room in ${this.#bytesMax}`);
    signal.throwIfAborted();
    if (this.#line.size > 0 || !this.#fits(bytes)) await this.#wait(bytes, signal);
    const hold = { bytes };
    this.#holds.add(hold);
    return hold;
  }

  #fits(bytes: number): boolean {
    if (this.#heldBytes + bytes > this.#bytesMax) return false;
    this.#count(bytes);
    return true;
  }

  #count(bytes: number): void {
    this.#heldBytes += bytes;
    this.#parts.gauge.set(this.#kind, this.#heldBytes);
  }

  #wait(bytes: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const leave = (): void => {
        this.#line.delete(waiting);
        signal.removeEventListener('abort', onAbort);
      };
      const waiting: Waiting = {
        bytes,
        go: () => {
          leave();
          resolve();
        },
      };
      const onAbort = (): void => {
        leave();
        reject(signal.reason as Error);
        this.#admit();
      };
      signal.addEventListener('abort', onAbort, { once: true });
      this.#line.add(waiting);
      if (this.#look === undefined) this.#cutStalled();
    });
  }

  #giveBack(hold: Hold): void {
    if (!this.#holds.delete(hold)) return;
    this.#count(-hold.bytes);
    this.#admit();
  }

  /** In the order of coming: the room is counted before the task goes on. */
  #admit(): void {
    for (const waiting of this.#line) {
      if (!this.#fits(waiting.bytes)) return;
      waiting.go();
    }
  }

  /** Makes room for the first in line, and looks again while there is a line. */
  #cutStalled(): void {
    this.#look = undefined;
    const [first] = this.#line;
    if (first === undefined) return;
    const { clock, cut } = this.#parts;
    const untilMs = clock.nowMs() - PATIENCE_MS;
    const stalled = [...this.#holds]
      .filter(({ handed }) => handed !== undefined && handed.sinceMs <= untilMs)
      .toSorted((a, b) => (a.handed?.sinceMs ?? 0) - (b.handed?.sinceMs ?? 0));
    let missing = this.#heldBytes + first.bytes - this.#bytesMax;
    for (const hold of stalled) {
      if (missing <= 0) break;
      missing -= hold.bytes;
      cut.inc(this.#kind);
      // The bytes come back when the response has closed.
      hold.handed?.response.destroy();
      delete hold.handed;
    }
    this.#look = clock.setTimer(LOOK_MS, () => this.#cutStalled());
  }
}

/** Waits for a client to take what it was handed; that time alone counts as its own. */
export type ClientWait = (taken: Promise<unknown>) => Promise<void>;
