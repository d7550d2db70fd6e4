import { afterEach, beforeEach, expect, it } from 'vitest';
import { SeededRandom } from '../../src/sim/seeded-random.ts';
import type { AgentCluster, ClusterHost } from '../../src/demo/agent-cluster.ts';
import type { EmbeddedRegistry } from '../../src/demo/embedded-registry.ts';
import { HttpBlobReader } from '../../src/demo/http-blob-reader.ts';
import { BLOCK_SIZE_BYTES, type BlobRef } from '../../src/image/block.ts';
import { bytesEqual, MIB } from '../../src/util/bytes.ts';
import { defined } from '../../src/util/assert.ts';
import { startBlobCluster, type BlobCluster } from '../kit/blob-cluster.ts';
import { describeWith, needs } from '../kit/requires.ts';

const CHILDREN = 14;
const READ_BYTES = 64 * 1024;
const READS_PER_HOST = 160;

describeWith(
  '16 agents whose processes fail during a cold start',
  [needs.program('mke2fs')],
  () => {
    let rig: BlobCluster;
    let registry: EmbeddedRegistry;
    let cluster: AgentCluster;
    let blob: BlobRef;
    let bytes: Uint8Array;

    beforeEach(async () => {
      rig = await startBlobCluster(24 * MIB, { roots: 2, children: CHILDREN });
      ({ registry, cluster, blob, bytes } = rig);
    }, 120_000);

    afterEach(() => rig.stop(), 60_000);

    /**
     * Reads pieces all over the blob on one host, and calls `onRead` after each. Throws at a wrong
     * byte.
     */
    async function readMuch(host: ClusterHost, onRead: () => void): Promise<void> {
      const origin = { registry: registry.address, repository: 'app' };
      const reader = new HttpBlobReader({ base: host.local, origin });
      const random = new SeededRandom(host.name);
      try {
        for (let i = 0; i < READS_PER_HOST; i++) {
          const offset = random.below(blob.sizeBytes - READ_BYTES);
          const piece = await reader.read(blob, offset, READ_BYTES, { kind: 'demand' });
          const right = bytesEqual(piece, bytes.subarray(offset, offset + READ_BYTES));
          expect(right, `${host.name} at ${offset}`).toBe(true);
          onRead();
        }
      } finally {
        reader.close();
      }
    }

    /** Children of the roots that have children themselves. */
    async function parents(): Promise<ClusterHost[]> {
      const found: ClusterHost[] = [];
      for (const host of cluster.children) {
        const trees = await cluster.trees(host);
        if (trees.some(({ children }) => children.length > 0)) found.push(host);
      }
      return found;
    }

    it('no read of a live host fails: parents killed and stopped, the owner killed', async () => {
      // A first read on each host puts it into the tree, so that there are parents to kill.
      const reads = { count: 0, of: (CHILDREN - 3) * READS_PER_HOST };
      const warmUp = { registry: registry.address, repository: 'app' };
      for (const host of cluster.children) {
        const reader = new HttpBlobReader({ base: host.local, origin: warmUp });
        await reader.read(blob, 0, 1, { kind: 'demand' });
        reader.close();
      }
      const [first, second, third] = await parents();
      const [killed, killedLater, stopped] = [first, second, third].map((host) =>
        defined(host, 'a parent'),
      ) as [ClusterHost, ClusterHost, ClusterHost];
      const owner = defined(
        (
          await Promise.all(
            cluster.roots.map(async (root) => [root, await cluster.trees(root)] as const),
          )
        ).find(([, trees]) => trees.length > 0)?.[0],
        'a root that owns the tree',
      );
      const faults: [share: number, run: () => void][] = [
        [0.1, () => killed.process.signal('SIGKILL')],
        [0.25, () => stopped.process.signal('SIGSTOP')],
        [0.4, () => killedLater.process.signal('SIGKILL')],
        [0.5, () => owner.process.signal('SIGKILL')],
      ];
      const onRead = (): void => {
        reads.count++;
        const next = faults[0];
        if (next === undefined || reads.count < next[0] * reads.of) return;
        faults.shift();
        next[1]();
      };
      const healthy = cluster.children.filter(
        (host) => ![killed, killedLater, stopped].includes(host),
      );
      await Promise.all(healthy.map((host) => readMuch(host, onRead)));
      expect(faults).toEqual([]);
      expect(reads.count).toBe(reads.of);
      stopped.process.signal('SIGCONT');
      await readMuch(stopped, () => {});
      const statuses = await Promise.all([...healthy, stopped].map((host) => cluster.status(host)));
      for (const status of statuses) expect(status.failedReads).toBe(0);
      const fallback = statuses.reduce(
        (sum, { bytesBySource }) => sum + (bytesBySource['fallback'] ?? 0),
        0,
      );
      const blocks = Math.ceil(blob.sizeBytes / BLOCK_SIZE_BYTES);
      console.info(
        `${reads.count} reads, 0 failed; origin ${registry.stats().blobBytes} bytes ` +
          `of ${blob.sizeBytes} (${blocks} blocks), fallback ${fallback}`,
      );
    }, 180_000);
  },
);
