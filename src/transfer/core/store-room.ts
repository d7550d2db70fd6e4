import { blockLength } from '../../image/block.ts';
import type { Attempt, CoreInit, SourceWindow } from './core-types.ts';

/**
 * Prefetches that had to wait go on once there is room for so much: one request of a registry then
 * brings several of them. 2 MiB. (tunable)
 */
const ROOM_BYTES = 2 * 1024 * 1024;

/**
 * Keeps prefetches to the pace of the store: they are asked for while what the store owes, with
 * what they bring, stays within a bound. Demand reads wait for no disk, but what they bring counts.
 *
 * A store that owes nothing holds back nothing, however many prefetches are in flight. So a host
 * waits here for its own disk alone, and no circle of hosts waits for itself.
 */
export class StoreRoom<T> {
  readonly #bytesMax: number;
  /** Blocks that went to the store and are not written. */
  #owedBytes = 0;
  /** Prefetches that were asked for and have not come. */
  #askedBytes = 0;
  #isHolding = false;
  /** Sources with prefetches that were held back. */
  readonly #held = new Set<SourceWindow<T>>();

  constructor({ storeBytesMax }: Pick<CoreInit, 'storeBytesMax'>) {
    this.#bytesMax = storeBytesMax;
  }

  /** Whether the block may be asked for now. */
  admit(attempt: Attempt<T>): boolean {
    if (attempt.kind === 'demand') return true;
    const restBytes = this.#bytesMax - this.#askedBytes - this.#owedBytes;
    const wantedBytes = this.#isHolding ? ROOM_BYTES : lengthOf(attempt);
    this.#isHolding = this.#owedBytes > 0 && restBytes < wantedBytes;
    if (this.#isHolding) this.#held.add(attempt.window);
    return !this.#isHolding;
  }

  /** The block is asked for. */
  asked(attempt: Attempt<T>): void {
    if (attempt.kind === 'prefetch') this.#askedBytes += lengthOf(attempt);
  }

  /** What was asked for ended, or is a prefetch no longer. */
  left(attempt: Attempt<T>): void {
    if (attempt.kind === 'prefetch') this.#askedBytes -= lengthOf(attempt);
  }

  /** A block goes to the store. */
  owes(lengthBytes: number): void {
    this.#owedBytes += lengthBytes;
  }

  /** The store is done with a block, whatever came of it. Sources that may have more to ask for. */
  written(lengthBytes: number): readonly SourceWindow<T>[] {
    this.#owedBytes -= lengthBytes;
    const held = [...this.#held];
    this.#held.clear();
    return held;
  }
}

function lengthOf({ fetch }: Attempt<unknown>): number {
  return blockLength(fetch.blob.ref.sizeBytes, fetch.index);
}
