import { afterEach, beforeEach, expect, it } from 'vitest';
import type { AgentCluster, ClusterHost } from '../../src/demo/agent-cluster.ts';
import type { EmbeddedRegistry } from '../../src/demo/embedded-registry.ts';
import { HttpBlobReader } from '../../src/demo/http-blob-reader.ts';
import { BLOCK_SIZE_BYTES, type BlobRef } from '../../src/image/block.ts';
import { bytesEqual, MIB } from '../../src/util/bytes.ts';
import { startBlobCluster, type BlobCluster } from '../kit/blob-cluster.ts';
import { describeWith, needs } from '../kit/requires.ts';

describeWith('agents below relays', [needs.program('mke2fs')], () => {
  let rig: BlobCluster;
  let registry: EmbeddedRegistry;
  let cluster: AgentCluster;
  let blob: BlobRef;
  let bytes: Uint8Array;

  beforeEach(async () => {
    rig = await startBlobCluster(4 * MIB, { roots: 1, relays: 2, children: 3 });
    ({ registry, cluster, blob, bytes } = rig);
  }, 120_000);

  afterEach(() => rig.stop(), 60_000);

  async function readAll(host: ClusterHost): Promise<void> {
    const origin = { registry: registry.address, repository: 'app' };
    const reader = new HttpBlobReader({ base: host.local, origin });
    try {
      for (let offset = 0; offset < blob.sizeBytes; offset += BLOCK_SIZE_BYTES) {
        const length = Math.min(BLOCK_SIZE_BYTES, blob.sizeBytes - offset);
        const piece = await reader.read(blob, offset, length, { kind: 'demand' });
        expect(bytesEqual(piece, bytes.subarray(offset, offset + length))).toBe(true);
      }
    } finally {
      reader.close();
    }
  }

  it('read the registry once, through their relays, and survive the death of a relay', async () => {
    const [first, second, third] = cluster.children as [ClusterHost, ClusterHost, ClusterHost];
    await Promise.all([readAll(first), readAll(second)]);
    const roots = cluster.roots.map(({ peer }) => peer);
    const relays = cluster.hosts.filter(({ role }) => role === 'relay');
    const paths = (await cluster.trees(first)).map(({ path }) => path.at(-1));
    expect(paths.length).toBeGreaterThan(0);
    for (const keeper of paths) expect(relays.map(({ peer }) => peer)).toContain(keeper);
    const above = (await Promise.all(relays.map((relay) => cluster.trees(relay)))).flat();
    expect(above.map(({ path }) => path.at(-1))).toContain(roots[0]);
    const status = await Promise.all(cluster.hosts.map((host) => cluster.status(host)));
    expect(status.map(({ bytesBySource }) => bytesBySource['fallback'] ?? 0)).toEqual(
      cluster.hosts.map(() => 0),
    );
    expect(status[0]?.bytesBySource['origin']).toBe(blob.sizeBytes);
    const dead = relays.find(({ peer }) => peer === paths[0]);
    await dead?.process.stop();
    await readAll(third);
    expect((await cluster.status(cluster.roots[0]!)).bytesBySource['origin']).toBe(blob.sizeBytes);
  }, 120_000);
});
