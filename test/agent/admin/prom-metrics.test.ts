import { describe, expect, it } from 'vitest';
import { PromMetrics } from '../../../src/agent/admin/prom-metrics.ts';

describe('PromMetrics', () => {
  it('counts, sets and observes with labels', async () => {
    const metrics = new PromMetrics({ processMetrics: false });
    const counter = metrics.counter({
      name: 'xylem_reads_total',
      help: 'Reads.',
      labels: { kind: ['demand', 'prefetch'] },
    });
    counter.inc({ kind: 'demand' });
    counter.inc({ kind: 'demand' }, 4);
    metrics.gauge({ name: 'xylem_peers', help: 'Peers.' }).set({}, 7);
    metrics
      .histogram({ name: 'xylem_read_seconds', help: 'Reads.', buckets: [0.1, 1] })
      .observe({}, 0.5);
    const text = await metrics.text();
    expect(text).toContain('xylem_reads_total{kind="demand"} 5');
    expect(text).toContain('xylem_reads_total{kind="prefetch"} 0');
    expect(text).toContain('xylem_peers 7');
    expect(text).toContain('xylem_read_seconds_bucket{le="1"} 1');
    expect(text).toContain('xylem_read_seconds_bucket{le="0.1"} 0');
  });

  it('keeps the counts of two agents in one process apart', async () => {
    const init = { name: 'xylem_reads_total', help: 'Reads.' };
    const [a, b] = [
      new PromMetrics({ processMetrics: true }),
      new PromMetrics({ processMetrics: true }),
    ];
    a.counter(init).inc({}, 3);
    b.counter(init);
    expect(await a.text()).toContain('xylem_reads_total 3');
    expect(await b.text()).toContain('xylem_reads_total 0');
  });

  it('gives the same metric for the same name, and refuses another shape', async () => {
    const metrics = new PromMetrics({ processMetrics: false });
    const init = { name: 'xylem_reads_total', help: 'Reads.' };
    metrics.counter(init).inc({});
    metrics.counter(init).inc({});
    expect(await metrics.text()).toContain('xylem_reads_total 2');
    expect(() => metrics.counter({ ...init, labels: { x: [] } })).toThrow(/is counter\(\) already/);
  });

  it('refuses names against the conventions', () => {
    const metrics = new PromMetrics({ processMetrics: false });
    expect(() => metrics.counter({ name: 'reads_total', help: 'h' })).toThrow(/xylem_/);
    expect(() => metrics.counter({ name: 'xylem_reads', help: 'h' })).toThrow(/_total/);
    expect(() => metrics.gauge({ name: 'xylem_reads_total', help: 'h' })).toThrow(/_total/);
  });
});
