/** A count that only grows. Label values come from fixed sets that never grow with the cluster. */
export interface Counter {
  inc(labels: Readonly<Record<string, string>>, value?: number): void;
}

/** A value that goes up and down. */
export interface Gauge {
  set(labels: Readonly<Record<string, string>>, value: number): void;
}

/** A distribution of observed values, counted in buckets. */
export interface Histogram {
  observe(labels: Readonly<Record<string, string>>, value: number): void;
}

/** Name, help text and labels of a metric. */
export interface MetricInit {
  /** Starts with `xylem_` and ends with the base unit; counters end with `_total`. */
  readonly name: string;
  readonly help: string;
  readonly labelNames?: readonly string[];
}

/** What a counter is. Each of its values is there from the start, so that rates see the first. */
export interface CounterInit extends Omit<MetricInit, 'labelNames'> {
  /** All values of each label. */
  readonly labels?: Readonly<Record<string, readonly string[]>>;
}

/** All words of a union of words: the compiler refuses a set that lacks one. */
export function allOf<T extends string>(words: Readonly<Record<T, true>>): readonly T[] {
  return Object.keys(words) as T[];
}

/** A counter that its owner can also read: it keeps sums by the values of one label. */
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

  /** Sums since the start by label value, without values never counted. */
  sums(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#sums);
  }

  get total(): number {
    let total = 0;
    for (const sum of this.#sums.values()) total += sum;
    return total;
  }
}

/** Where a subsystem registers its metrics, injected; an agent implements it by prom-client. */
export interface Metrics {
  counter(init: CounterInit): Counter;
  gauge(init: MetricInit): Gauge;
  histogram(init: MetricInit & { readonly buckets: readonly number[] }): Histogram;
}

/** Counts nothing: for short-lived commands, and for tests that read no metrics. */
export const silentMetrics: Metrics = {
  counter: () => ({ inc: () => {} }),
  gauge: () => ({ set: () => {} }),
  histogram: () => ({ observe: () => {} }),
};
