/** What a mount's thread has read by itself, counted since its start. */
export interface HeldCounts {
  readonly storeBytes: number;
  readonly memoryBytes: number;
}

const STORE = 0;
const MEMORY = 1;

/**
 * Counts in memory that two threads share: one adds, the other one reads. A count is a float64 of 8
 * aligned bytes, which the processors that Node runs on read and write at once; a count that is
 * read late is read later.
 */
export class SharedCounts {
  /** Bytes of the shared memory. */
  static readonly sizeBytes = 2 * 8;
  readonly #counts: Float64Array;

  constructor(shared: SharedArrayBuffer) {
    this.#counts = new Float64Array(shared);
  }

  add(from: 'store' | 'memory', bytes: number): void {
    const at = from === 'store' ? STORE : MEMORY;
    this.#counts[at] = (this.#counts[at] ?? 0) + bytes;
  }

  read(): HeldCounts {
    const [storeBytes = 0, memoryBytes = 0] = this.#counts;
    return { storeBytes, memoryBytes };
  }
}
