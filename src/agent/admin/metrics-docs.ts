import { deviceSocketMetrics } from '../device-socket/metrics.ts';
import { accelerationMetrics } from '../../acceleration/metrics.ts';
import { storeMetrics } from '../../blockstore/metrics.ts';
import { linkMetrics } from '../../device/link/metrics.ts';
import { deviceMetrics } from '../../device/metrics.ts';
import { accessMetrics } from '../../edge/access/metrics.ts';
import { httpMetrics } from '../../edge/http/metrics.ts';
import { mirrorMetrics } from '../../edge/mirror/metrics.ts';
import { overlaybdMetrics } from '../../edge/overlaybd/metrics.ts';
import { netMetrics } from '../../net/metrics.ts';
import { registryMetrics } from '../../registry/metrics.ts';
import { silentMetrics, type MetricInit, type Metrics } from '../../runtime/metrics.ts';
import { snapshotterMetrics } from '../../snapshotter/metrics.ts';
import { transferMetrics } from '../../transfer/drive/metrics.ts';

const OPENING = `# Metrics

This page is generated from what the agent registers: \`npm run docs\`.

\`GET /metrics\` on \`admin.listen\` has them in the exposition format of Prometheus, beside the
usual \`process_*\` and \`nodejs_*\`. Label sets are fixed: they do not grow with the cluster. A
histogram has \`_bucket\`, \`_sum\` and \`_count\`. A counter has all its values from the start,
at 0, so that \`rate()\` and \`increase()\` see the first event (of HTTP, the statuses that agents
answer).
`;

/** What registers metrics, by the folder that moves them. */
const ROOMS: readonly {
  readonly folder: string;
  readonly what: string;
  readonly register: (metrics: Metrics) => unknown;
}[] = [
  { folder: 'src/transfer', what: 'Blocks', register: transferMetrics },
  { folder: 'src/blockstore', what: 'Store', register: storeMetrics },
  { folder: 'src/net', what: 'Network', register: netMetrics },
  { folder: 'src/registry', what: 'Registries', register: registryMetrics },
  { folder: 'src/edge/http', what: 'Local endpoint', register: httpMetrics },
  { folder: 'src/edge/access', what: 'Blobs for local clients', register: accessMetrics },
  { folder: 'src/edge/overlaybd', what: 'overlaybd prefix', register: overlaybdMetrics },
  { folder: 'src/edge/mirror', what: 'Registry mirror', register: mirrorMetrics },
  { folder: 'src/device', what: 'Block devices', register: deviceMetrics },
  { folder: 'src/agent/device-socket', what: 'Device socket', register: deviceSocketMetrics },
  { folder: 'src/device/link', what: 'Device process: its agent', register: linkMetrics },
  { folder: 'src/snapshotter', what: 'Snapshots', register: snapshotterMetrics },
  { folder: 'src/acceleration', what: 'Acceleration', register: accelerationMetrics },
];

/** docs/METRICS.md, whole. */
export function metricsDocs(): string {
  const rooms = ROOMS.flatMap(({ folder, what, register }) => [
    `## ${what} (\`${folder}\`)`,
    '',
    '| name | kind | labels | what it is |',
    '|---|---|---|---|',
    ...rowsOf(register),
    '',
  ]);
  return [OPENING, ...rooms].join('\n');
}

function rowsOf(register: (metrics: Metrics) => unknown): readonly string[] {
  const rows: string[] = [];
  const note = (kind: string, { name, labelNames = [], help }: MetricInit): void => {
    const labels = labelNames.map((label) => `\`${label}\``).join(', ');
    rows.push(`| \`${name}\` | ${kind} | ${labels} | ${help.replaceAll('|', '\\|')} |`);
  };
  register({
    counter: (init) => {
      note('counter', { ...init, labelNames: Object.keys(init.labels ?? {}) });
      return silentMetrics.counter(init);
    },
    gauge: (init) => {
      note('gauge', init);
      return silentMetrics.gauge(init);
    },
    histogram: (init) => {
      note('histogram', init);
      return silentMetrics.histogram(init);
    },
  });
  return rows;
}
