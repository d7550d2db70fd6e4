/** Spread of a set of times, in milliseconds; all 0 when the set is empty. */
export interface Spread {
  readonly count: number;
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

/** Nearest-rank quantiles, rounded to a microsecond. */
export function spreadOf(times: readonly number[]): Spread {
  const sorted = Float64Array.from(times).sort();
  const at = (quantile: number): number => {
    const rank = Math.max(1, Math.ceil(quantile * sorted.length));
    return Math.round((sorted[rank - 1] ?? 0) * 1000) / 1000;
  };
  return { count: sorted.length, p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1) };
}
