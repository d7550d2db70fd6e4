/** One measured number. */
export interface BenchRow {
  /** Name of the benchmark, such as `codecs`. */
  readonly bench: string;
  /** The measured quantity. */
  readonly what: string;
  readonly value: number;
  readonly unit: string;
  readonly note?: string;
}

/** How a benchmark runs. */
export interface BenchOptions {
  /** Everything once, at its smallest size. */
  readonly smoke: boolean;
  /** Of a benchmark of several programs, those whose names have this in them. */
  readonly only?: string | undefined;
  /** Is told rows as they come; those that it is not told are in the result alone. */
  readonly onRow?: ((row: BenchRow) => void) | undefined;
  /** Also with other shapes of blocks than the usual one. */
  readonly shapes?: boolean | undefined;
}

/** Whether a goal is met, for the note of a row. */
export function verdict(isMet: boolean, goal: string): string {
  return `${isMet ? 'met' : 'MISSED'}: ${goal}`;
}

/** Seconds that the work took. */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now();
  await work();
  return (performance.now() - startMs) / 1000;
}
