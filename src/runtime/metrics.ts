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

/** A counter that can be read: its sums by the values of one label. */
export class Tally implements Counter {
  readonly #counter: Counter;
  readonly #label: string;
  readonly #sums = new Map<string, number>();

  constructor(counter: Counter, label: string) {
    this.#counter = counter;
    this.#label = label;
  }

  inc(labels: Readonly<Record<string, string>>, value = 1): void {
    this.#counter.inc(labels, value);
    const name = labels[this.#label] ?? '';
    this.#sums.set(name, (this.#sums.get(name) ?? 0) + value);
  }

  /** Since the start; a value that was never counted is left out. */
  sums(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#sums);
  }

  get total(): number {
    let total = 0;
    for (const sum of this.#sums.values()) total += sum;
    return total;
  }
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
