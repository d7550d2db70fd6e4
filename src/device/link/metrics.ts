import type { Counter, Gauge, Metrics } from '../../runtime/metrics.ts';

/** Metrics of a device process about its agent. */
export interface LinkMetrics {
  readonly connected: Gauge;
  readonly lost: Counter;
  /** Labels: `outcome` = block | failure | lost. */
  readonly reads: Counter;
}

/** Registers the metrics of the link to the agent. */
export function linkMetrics(metrics: Metrics): LinkMetrics {
  return {
    connected: metrics.gauge({
      name: 'xylem_device_agent_connected',
      help: 'Whether the device process has its agent: 1, or 0 while it waits for it.',
    }),
    lost: metrics.counter({
      name: 'xylem_device_agent_lost_total',
      help: 'Connections to the agent that were lost.',
    }),
    reads: metrics.counter({
      name: 'xylem_device_agent_reads_total',
      help:
        'Blocks asked of the agent, by outcome: a block, a failure, or the loss of the ' +
        'connection. After the last two the block is asked again.',
      labels: { outcome: ['block', 'failure', 'lost'] },
    }),
  };
}
