import { deepStrictEqual } from 'node:assert';
import { dirname } from 'node:path';
import { onTestFinished } from 'vitest';
import { AgentCluster, type ClusterHost } from '../../src/demo/agent-cluster.ts';
import { defined } from '../../src/util/assert.ts';
import { NO_TRACES, tracesOf } from '../device/kit/images.ts';
import { startDeviceProcess, type TestDeviceProcess } from './device-process.ts';
import { tempFolder, type AtEnd } from './temp-folder.ts';

/** A cluster of a root and a host, whose agent serves no devices itself. */
export interface AgentHost {
  readonly cluster: AgentCluster;
  readonly host: ClusterHost;
}

/** A host with `xylem device` beside its agent. */
export interface DeviceHost extends AgentHost {
  readonly device: TestDeviceProcess;
}

/** Starts both, which read from this registry without TLS, until the end. */
export async function startAgentHost(
  registry: string,
  atEnd: AtEnd = onTestFinished,
): Promise<AgentHost> {
  const shape = { roots: 1, children: 1, devices: false };
  const cluster = new AgentCluster({ dir: tempFolder(atEnd), ...shape, registry });
  atEnd(() => cluster.stop());
  await cluster.start();
  return { cluster, host: defined(cluster.children[0], 'a child') };
}

/**
 * The same with `xylem device`, with these keys of its section of the configuration. It must leave
 * no mount at the end.
 */
export async function startDeviceHost(
  registry: string,
  atEnd: AtEnd = onTestFinished,
  keys: Readonly<Record<string, unknown>> = {},
): Promise<DeviceHost> {
  const { cluster, host } = await startAgentHost(registry, atEnd);
  // Runs after the end of the device process, which is told later.
  atEnd(() => deepStrictEqual(tracesOf(dirname(host.storeDir)), NO_TRACES));
  return { cluster, host, device: await startDeviceProcess(host, keys, atEnd) };
}
