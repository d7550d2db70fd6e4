import { execFileSync } from 'node:child_process';
import { expect, it, onTestFinished } from 'vitest';
import { AdminServer } from '../../../src/agent/admin/admin-server.ts';
import { PromMetrics } from '../../../src/agent/admin/prom-metrics.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { describeWith, needs } from '../../kit/requires.ts';
import { StatusTwin } from '../../kit/twins.ts';

/** promtool of the Debian package prometheus. */
const PROMTOOL = 'promtool';

describeWith('promtool', [needs.program(PROMTOOL)], () => {
  it('PromMetrics.text() passes promtool check metrics', async () => {
    const metrics = new PromMetrics({ processMetrics: true });
    metrics.counter({ name: 'xylem_reads_total', help: 'Reads.' }).inc({});
    const output = execFileSync(PROMTOOL, ['check', 'metrics'], { input: await metrics.text() });
    expect(output.toString()).toBe('');
  });

  it('AdminServer /metrics passes promtool check metrics', async () => {
    const metrics = new PromMetrics({ processMetrics: true });
    const server = new AdminServer(
      { status: new StatusTwin(), metrics, clock: new ManualClock(), logger: silentLogger },
      { listen: { host: '127.0.0.1', port: 0 }, listenKey: 'admin.listen' },
    );
    onTestFinished(() => server.stop());
    await server.start();
    const response = await fetch(`${server.url}/metrics`);
    expect(response.headers.get('content-type')).toMatch(/^text\/plain; version=0.0.4/);
    const output = execFileSync(PROMTOOL, ['check', 'metrics'], { input: await response.text() });
    expect(output.toString()).toBe('');
  });
});
