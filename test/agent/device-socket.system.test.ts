import { dirname, join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, it, onTestFinished } from 'vitest';
import { askAgent } from '../../src/agent/admin/admin-client.ts';
import { waitReady } from '../../src/demo/processes.ts';
import { AgentCluster, type ClusterHost } from '../../src/demo/agent-cluster.ts';
import { AgentLink } from '../../src/device/link/agent-link.ts';
import type { LinkImage } from '../../src/device/link/image-opens.ts';
import type { Digest } from '../../src/image/digest.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { silentMetrics } from '../../src/runtime/metrics.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import { SeededRandom } from '../../src/sim/seeded-random.ts';
import { defined } from '../../src/util/assert.ts';
import { bytesEqual, MIB } from '../../src/util/bytes.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { sampleBytes } from '../kit/layers.ts';
import { digestOf, putImage } from '../kit/registry-content.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { startBlobCluster, type BlobCluster } from '../kit/blob-cluster.ts';
import { describeWith, needs } from '../kit/requires.ts';

const signal = new AbortController().signal;
const READ_BYTES = 4096;
const KILLS = 3;
const READS_BETWEEN = 20;

/** A link, started, to the agent of a host. */
function linkTo(host: ClusterHost): AgentLink {
  const path = join(dirname(host.process.socket), 'agent.sock');
  const parts = { clock: new SystemClock(), logger: silentLogger, metrics: silentMetrics };
  // Few blocks in memory: most reads ask the agent.
  const link = new AgentLink(parts, { path, blocksKeptMax: 2 });
  link.start();
  return link;
}

describeWith('a device process whose agent is a process', [needs.program('mke2fs')], () => {
  let rig: BlobCluster;
  let host: ClusterHost;
  let image: LinkImage;
  const links: AgentLink[] = [];

  beforeAll(async () => {
    rig = await startBlobCluster(24 * MIB, { roots: 1, children: 1 });
    host = defined(rig.cluster.children[0], 'a child');
    image = { reference: `${rig.registry.address}/app:latest`, layers: [rig.blob] };
  });
  afterEach(() => {
    for (const link of links.splice(0)) link.stop();
  });
  afterAll(() => rig.stop());

  function newLink(): AgentLink {
    const link = linkTo(host);
    links.push(link);
    return link;
  }

  async function isMounted(digest: Digest): Promise<boolean | undefined> {
    const { blobs } = await askAgent({ admin: host.process.socket }, 'storeUsage');
    return blobs.find((blob) => blob.digest === digest)?.mounted;
  }

  /** The agent is killed and started again, and is ready. */
  async function kill(): Promise<void> {
    host.process.signal('SIGKILL');
    await rig.cluster.restart(host);
    await waitReady(host.process);
  }

  it('reads on while the agent is killed and started again', async () => {
    const link = newLink();
    await link.open(image, signal);
    const stop = new AbortController();
    const names = ['a', 'b', 'c', 'd'];
    const counts = new Map(names.map((name) => [name, 0]));
    const reader = async (name: string): Promise<void> => {
      const random = new SeededRandom(name);
      for (let count = 1; !stop.signal.aborted; count++) {
        const offset = random.below(rig.blob.sizeBytes - READ_BYTES);
        const piece = await link.read(rig.blob, offset, READ_BYTES, { kind: 'demand' });
        const right = bytesEqual(piece, rig.bytes.subarray(offset, offset + READ_BYTES));
        expect(right, `${name}, at ${offset}`).toBe(true);
        counts.set(name, count);
      }
    };
    const ended = Promise.all(names.map(reader));
    const fewest = (): number => Math.min(...counts.values());
    for (let i = 1; i <= KILLS; i++) {
      await Promise.race([ended, kill()]);
      const before = fewest();
      await expect.poll(fewest, { timeout: 60_000 }).toBeGreaterThan(before + READS_BETWEEN);
    }
    stop.abort();
    await ended;
  });

  it('fails a read at its deadline while the agent stands still, and later ones not', async () => {
    const link = newLink();
    await link.open(image, signal);
    host.process.signal('SIGSTOP');
    const options = { kind: 'demand', timeoutMs: 1_000 } as const;
    const late = link.read(rig.blob, 20 * MIB, READ_BYTES, options);
    await expect(late).rejects.toMatchObject({ code: 'unreachable' });
    host.process.signal('SIGCONT');
    const piece = await link.read(rig.blob, 20 * MIB, READ_BYTES, { kind: 'demand' });
    expect(bytesEqual(piece, rig.bytes.subarray(20 * MIB, 20 * MIB + READ_BYTES))).toBe(true);
  });

  it('finds its blobs kept after the kill of both, until it has said what it needs', async () => {
    const { digest } = rig.blob;
    const link = newLink();
    await link.open(image, signal);
    await link.read(rig.blob, 0, READ_BYTES, { kind: 'demand' });
    await expect.poll(() => isMounted(digest)).toBe(true);
    link.stop();
    await kill();
    expect(await isMounted(digest)).toBe(true);
    newLink().settled();
    await expect.poll(() => isMounted(digest)).toBe(false);
  });

  it('is told at once that there is no such image', async () => {
    const gone = { reference: `${rig.registry.address}/app:gone`, layers: [] };
    await expect(newLink().open(gone, signal)).rejects.toMatchObject({ code: 'not-found' });
    const elsewhere = { ...image, reference: `${rig.registry.address}/nowhere:latest` };
    const opened = newLink().open({ ...elsewhere, layers: [] }, signal);
    await expect(opened).rejects.toMatchObject({ code: 'not-found' });
  });
});

describeWith(
  'a device process of a private image',
  [needs.program('docker-registry'), needs.program('htpasswd')],
  () => {
    it('is told at once that the agents may not read it', async () => {
      const layer = sampleBytes(700_000, 11);
      const storage = tempFolder();
      const open = await startDockerRegistry({ storage });
      const { digest: manifestDigest } = await putImage(`http://${open}/v2/team/app`, '1', [layer]);
      const htpasswd = { username: 'reader', password: 'word' };
      const registry = await startDockerRegistry({ storage, htpasswd });
      const dir = tempFolder();
      const init = { dir, roots: 1, children: 1, registry, devices: false };
      const cluster = new AgentCluster(init);
      onTestFinished(() => cluster.stop());
      await cluster.start();
      const link = linkTo(defined(cluster.children[0], 'a child'));
      onTestFinished(() => link.stop());
      const layers = [{ digest: digestOf(layer), sizeBytes: layer.length }];
      const reference = `${registry}/team/app:1`;
      for (const image of [
        { reference, layers },
        { reference, layers, manifestDigest },
      ]) {
        await expect(link.open(image, signal)).rejects.toMatchObject({ code: 'not-authorized' });
      }
    });
  },
);
