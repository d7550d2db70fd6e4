import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { AgentCluster, ClusterHost } from '../../src/demo/agent-cluster.ts';
import { waitReady } from '../../src/demo/processes.ts';
import { defined } from '../../src/util/assert.ts';
import { MIB } from '../../src/util/bytes.ts';
import { FakeRegistry, type FakeBlob } from '../kit/fake-registry.ts';
import { startServedCluster, type ServedCluster } from '../kit/served-cluster.ts';

describe('agents whose roots are known by certificate', () => {
  let registry: FakeRegistry;
  let served: ServedCluster;
  let cluster: AgentCluster;

  beforeEach(async () => {
    registry = new FakeRegistry();
    const hosts = { roots: 2, children: 3, rootsBy: 'address' } as const;
    served = await startServedCluster([registry], () => hosts);
    ({ cluster } = served);
  }, 120_000);

  afterEach(() => served.stop(), 60_000);

  async function readAll(host: ClusterHost, { bytes, digest }: FakeBlob): Promise<void> {
    const url = `${host.local}/http://${registry.address}/v2/app/blobs/${digest}`;
    const response = await fetch(url, { headers: { range: `bytes=0-${bytes.length - 1}` } });
    expect(response.status).toBe(206);
    expect(Buffer.from(await response.arrayBuffer()).equals(bytes)).toBe(true);
  }

  it('take held blocks of a root that is down when they start from other hosts', async () => {
    const blobs = Array.from({ length: 4 }, () => registry.add(MIB));
    const [late, ...others] = cluster.children as [ClusterHost, ...ClusterHost[]];
    for (const blob of blobs) for (const host of others) await readAll(host, blob);
    await defined(cluster.roots[0], 'a root').process.stop();
    await cluster.restart(late);
    await waitReady(late.process);
    for (const blob of blobs) await readAll(late, blob);
    const { bytesBySource } = await cluster.status(late);
    expect(bytesBySource['fallback'] ?? 0).toBe(0);
    const metrics = await (await fetch(`${late.process.admin}/metrics`)).text();
    expect(metrics).not.toMatch(/^xylem_block_rejected_total\{[^}]*unknown-signer[^}]*\} [1-9]/m);
  }, 120_000);
});
