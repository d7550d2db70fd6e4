/** A count that only grows. Labels are fixed sets: they never grow with the cluster. */
export interface Counter {
  inc(labels: Readonly<Record<string, string>>, value?: number): void;
}

export interface Gauge {
  set(labels: Readonly<Record<string, string>>, value: number): void;
}

export interface Histogram {
  observe(labels: Readonly<Record<string, string>>, value: number): void;
}

export interface MetricInit {
  /** Starts with `xylem_`, ends with the base unit; counters end with `_total`. */
  readonly name: string;
  readonly help: string;
  readonly labelNames?: readonly string[];
}

/** Where a folder registers what it counts; prom-client stands behind it in an agent. */
export interface Metrics {
  counter(init: MetricInit): Counter;
  gauge(init: MetricInit): Gauge;
  histogram(init: MetricInit & { readonly buckets: readonly number[] }): Histogram;
}

/** Counts nothing: for commands that end, and for tests that do not look. */
export const silentMetrics: Metrics = {
  counter: () => ({ inc: () => {} }),
  gauge: () => ({ set: () => {} }),
  histogram: () => ({ observe: () => {} }),
};
