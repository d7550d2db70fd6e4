import { assert } from '../../util/assert.ts';
import type { Unique } from './fuse-protocol.ts';

/**
 * A read that the thread of the kernel's requests hands on; with length 0, the interruption of one.
 */
export interface RingEntry {
  readonly unique: Unique;
  readonly offset: number;
  readonly length: number;
}

/**
 * Most requests between the threads: a power of two, far above the number that the kernel has in
 * flight.
 */
const SLOT_COUNT = 1024;
const SLOT_WORDS = 8;
const HEADER_WORDS = 16;
const HEAD = 0;
const TAIL = 1;
const ASLEEP = 2;

/**
 * A queue with one producer and one consumer in memory that two threads share.
 *
 *     words 0-15: head (taken so far), tail (put so far), 1 while the consumer sleeps
 *     then 1024 slots of 8 words:
 *     unique low, unique high, offset low, offset high, length, 3 unused
 *
 * The producer waits while the ring is full. The consumer never waits: it marks itself as asleep.
 * The `put()` that finds it asleep returns true, and the producer then wakes it by other means.
 */
export class RequestRing {
  readonly #words: Int32Array;

  constructor(shared: SharedArrayBuffer) {
    assert(
      shared.byteLength === RequestRing.sizeBytes,
      `the memory of a ring must have ${RequestRing.sizeBytes} bytes`,
    );
    this.#words = new Int32Array(shared);
  }

  /** Bytes of a ring's shared memory. */
  static readonly sizeBytes = (HEADER_WORDS + SLOT_COUNT * SLOT_WORDS) * 4;

  /** Producer: adds an entry; true when the producer has to wake the consumer. */
  put(entry: RingEntry): boolean {
    const words = this.#words;
    const tail = Atomics.load(words, TAIL);
    for (;;) {
      const head = Atomics.load(words, HEAD);
      if (((tail - head) | 0) < SLOT_COUNT) break;
      Atomics.wait(words, HEAD, head);
    }
    const at = HEADER_WORDS + (tail & (SLOT_COUNT - 1)) * SLOT_WORDS;
    words[at] = entry.unique.low;
    words[at + 1] = entry.unique.high;
    words[at + 2] = entry.offset | 0;
    words[at + 3] = Math.floor(entry.offset / 2 ** 32);
    words[at + 4] = entry.length;
    Atomics.store(words, TAIL, (tail + 1) | 0);
    return Atomics.exchange(words, ASLEEP, 0) === 1;
  }

  /** Consumer: the oldest entry, or undefined when there is none. */
  take(): RingEntry | undefined {
    const words = this.#words;
    const head = Atomics.load(words, HEAD);
    if (head === Atomics.load(words, TAIL)) return undefined;
    const at = HEADER_WORDS + (head & (SLOT_COUNT - 1)) * SLOT_WORDS;
    const entry = {
      unique: { low: (words[at] ?? 0) >>> 0, high: (words[at + 1] ?? 0) >>> 0 },
      offset: ((words[at + 2] ?? 0) >>> 0) + (words[at + 3] ?? 0) * 2 ** 32,
      length: words[at + 4] ?? 0,
    };
    Atomics.store(words, HEAD, (head + 1) | 0);
    // Checked after the head has moved: a producer that filled the last slot meanwhile may already
    // wait for the move.
    const wasFull = ((Atomics.load(words, TAIL) - head) | 0) === SLOT_COUNT;
    if (wasFull) Atomics.notify(words, HEAD);
    return entry;
  }

  /** Consumer: goes to sleep; false when an entry arrived meanwhile and it has to stay awake. */
  sleep(): boolean {
    const words = this.#words;
    Atomics.store(words, ASLEEP, 1);
    if (Atomics.load(words, HEAD) === Atomics.load(words, TAIL)) return true;
    return Atomics.exchange(words, ASLEEP, 0) === 0;
  }
}
