import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { AgentCluster, ClusterHost } from '../../src/demo/agent-cluster.ts';
import { waitReady } from '../../src/demo/processes.ts';
import { MIB } from '../../src/util/bytes.ts';
import { FakeRegistry, type FakeBlob } from '../kit/fake-registry.ts';
import { startServedCluster, type ServedCluster } from '../kit/served-cluster.ts';

describe('agents that were all restarted while the registry is away', () => {
  let registry: FakeRegistry;
  let served: ServedCluster;
  let address: string;
  let cluster: AgentCluster;

  beforeEach(async () => {
    registry = new FakeRegistry();
    served = await startServedCluster([registry], () => ({ roots: 2, children: 2 }));
    ({ cluster } = served);
    ({ address } = registry);
  }, 120_000);

  afterEach(() => served.stop(), 60_000);

  function read(host: ClusterHost, { bytes, digest }: FakeBlob, repository = 'app') {
    const url = `${host.local}/http://${address}/v2/${repository}/blobs/${digest}`;
    return fetch(url, { headers: { range: `bytes=0-${bytes.length - 1}` } });
  }

  it('serve what was public, from their stores, and nothing by another name', async () => {
    const blob = registry.add(MIB);
    for (const host of cluster.hosts) expect((await read(host, blob)).status).toBe(206);
    // The verdicts are written, and the stores too.
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    await registry.stop();
    for (const host of cluster.hosts) await cluster.restart(host);
    for (const host of cluster.hosts) await waitReady(host.process);
    for (const host of cluster.hosts) {
      const startedMs = performance.now();
      const response = await read(host, blob);
      expect(response.status, host.name).toBe(206);
      expect(Buffer.from(await response.arrayBuffer()).equals(blob.bytes)).toBe(true);
      expect(performance.now() - startedMs).toBeLessThan(8_000);
    }
    const other = await read(cluster.children[0] as ClusterHost, blob, 'other');
    expect(other.status).toBe(503);
  }, 180_000);
});
