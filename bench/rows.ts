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
