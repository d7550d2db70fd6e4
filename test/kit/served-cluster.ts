import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AgentCluster, type ClusterInit } from '../../src/demo/agent-cluster.ts';

/** A registry or a storage. */
interface Server {
  /** `host:port`, once started. */
  readonly address: string;
  start(): Promise<void>;
  stop(): Promise<void>;
}

/** Real agents without devices, and the servers that they read. */
export interface ServedCluster {
  readonly cluster: AgentCluster;
  stop(): Promise<void>;
}

/** A fresh folder for a cluster, which `ServedCluster.stop()` removes. */
export function clusterFolder(): Promise<string> {
  return mkdtemp(join(tmpdir(), 'xylem-test-'));
}

/**
 * Starts the servers, the registry first, and then the agents; `init` is asked in between, when the
 * servers have their addresses. A start that fails leaves nothing behind.
 */
export async function startServedCluster(
  servers: readonly [Server, ...Server[]],
  init: () => Omit<ClusterInit, 'dir' | 'registry' | 'devices'>,
  dir?: string,
): Promise<ServedCluster> {
  const folder = dir ?? (await clusterFolder());
  let cluster: AgentCluster | undefined;
  const stop = async (): Promise<void> => {
    await cluster?.stop();
    await Promise.all(servers.map((server) => server.stop()));
    await rm(folder, { recursive: true, force: true });
  };
  try {
    await Promise.all(servers.map((server) => server.start()));
    const { address: registry } = servers[0];
    cluster = new AgentCluster({ ...init(), dir: folder, registry, devices: false });
    await cluster.start();
    return { cluster, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
