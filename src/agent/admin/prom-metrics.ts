import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client';
import type * as runtime from '../../runtime/metrics.ts';
import { assert } from '../../util/assert.ts';

/** prom-client's own names that break Prometheus' naming rules: gauges ending in `_total`. */
const MISNAMED = [
  'nodejs_active_handles_total',
  'nodejs_active_requests_total',
  'nodejs_active_resources_total',
];

/** Distinct metrics of one agent; more means that names are made at run time. */
const METRICS_MAX = 500;

type Kind = 'counter' | 'gauge' | 'histogram';

/**
 * The metrics of one agent, for Prometheus. Each has a registry of its own, so that two agents in
 * one process count apart. A name registered twice, with the same kind and labels, is the same
 * metric.
 */
export class PromMetrics implements runtime.Metrics {
  readonly #registry = new Registry();
  readonly #known = new Map<string, { readonly shape: string; readonly metric: unknown }>();

  /** `processMetrics`: also CPU, memory, event loop and garbage collection of this process. */
  constructor(init: { readonly processMetrics: boolean }) {
    if (!init.processMetrics) return;
    collectDefaultMetrics({ register: this.#registry });
    for (const name of MISNAMED) this.#registry.removeSingleMetric(name);
  }

  counter({ labels = {}, ...rest }: runtime.CounterInit): runtime.Counter {
    const init = { ...rest, labelNames: Object.keys(labels) };
    const metric = this.#once('counter', init, () => {
      const made = new Counter(this.#options(init));
      for (const values of combinations(labels)) made.inc(values, 0);
      return made;
    });
    return { inc: (labels, value = 1) => metric.inc(labels, value) };
  }

  gauge(init: runtime.MetricInit): runtime.Gauge {
    const metric = this.#once('gauge', init, () => new Gauge(this.#options(init)));
    return { set: (labels, value) => metric.set(labels, value) };
  }

  histogram(init: runtime.MetricInit & { readonly buckets: readonly number[] }): runtime.Histogram {
    const metric = this.#once(
      'histogram',
      init,
      () => new Histogram({ ...this.#options(init), buckets: [...init.buckets] }),
    );
    return { observe: (labels, value) => metric.observe(labels, value) };
  }

  /** Media type of `text()`. */
  get contentType(): string {
    return this.#registry.contentType;
  }

  /** All metrics in the exposition format of Prometheus. */
  text(): Promise<string> {
    return this.#registry.metrics();
  }

  #options(init: runtime.MetricInit) {
    return {
      name: init.name,
      help: init.help,
      labelNames: [...(init.labelNames ?? [])],
      registers: [this.#registry],
    };
  }

  #once<M>(kind: Kind, init: runtime.MetricInit, make: () => M): M {
    assert(/^xylem_[a-z0-9_]+$/.test(init.name), `metric ${init.name} does not start with xylem_`);
    assert(
      (kind === 'counter') === init.name.endsWith('_total'),
      `metric ${init.name}: counters end with _total, nothing else does`,
    );
    const shape = `${kind}(${(init.labelNames ?? []).join(',')})`;
    const known = this.#known.get(init.name);
    if (known !== undefined) {
      assert(known.shape === shape, `metric ${init.name} is ${known.shape} already, not ${shape}`);
      return known.metric as M;
    }
    assert(this.#known.size < METRICS_MAX, `more than ${METRICS_MAX} metrics`);
    const metric = make();
    this.#known.set(init.name, { shape, metric });
    return metric;
  }
}

/** All sets of label values. */
function combinations(
  labels: Readonly<Record<string, readonly string[]>>,
): readonly Readonly<Record<string, string>>[] {
  let sets: readonly Readonly<Record<string, string>>[] = [{}];
  for (const [name, values] of Object.entries(labels)) {
    sets = sets.flatMap((set) => values.map((value) => ({ ...set, [name]: value })));
  }
  return sets;
}
