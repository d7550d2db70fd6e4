import { Agent } from 'node:http';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AgentCluster, type ClusterHost } from '../src/demo/agent-cluster.ts';
import { FakeRegistry } from '../test/kit/fake-registry.ts';
import { fetchPart } from './overlaybd-client.ts';
import { timed, type BenchRow } from './rows.ts';

/** Distinct blobs that one agent sees; a cluster's bound on open blobs is 16,384. */
const BLOBS = { full: 20_000, smoke: 200 };
const BLOB_BYTES = 512;

/** Blobs between two looks at the memory, and reads in flight. */
const LOOKS = 8;
const READS_RUNNING = 8;

/**
 * Blobs that one child and its root see in one life, each read once: age must refuse nothing, and
 * memory must stay flat.
 */
export async function benchBlobs(options: { smoke: boolean }): Promise<BenchRow[]> {
  const count = BLOBS[options.smoke ? 'smoke' : 'full'];
  const dir = await mkdtemp(join(tmpdir(), 'xylem-bench-'));
  const origin = new FakeRegistry();
  await origin.start();
  const cluster = new AgentCluster({
    dir,
    roots: 1,
    children: 1,
    registry: origin.address,
    devices: false,
  });
  try {
    await cluster.start();
    const rows: BenchRow[] = [];
    const agent = new Agent({ keepAlive: true, maxSockets: READS_RUNNING });
    let refused = 0;
    for (let look = 1; look <= LOOKS; look++) {
      const seconds = await timed(async () => {
        refused += await readNew(cluster, origin, { agent, count: count / LOOKS });
      });
      const [root = 0, child = 0] = await Promise.all(cluster.hosts.map(residentMib));
      rows.push({
        bench: 'blobs',
        what: `${(count * look) / LOOKS} blobs seen, child`,
        value: child,
        unit: 'MiB',
        note:
          `root ${root.toFixed(0)} MiB; ${(count / LOOKS / seconds).toFixed(0)} blobs/s; ` +
          `${refused} refused`,
      });
    }
    agent.destroy();
    return rows;
  } finally {
    await cluster.stop();
    await origin.stop();
    await rm(dir, { recursive: true, force: true });
  }
}

/** Reads new blobs at the child; returns how many reads failed. */
async function readNew(
  cluster: AgentCluster,
  origin: FakeRegistry,
  { agent, count }: { readonly agent: Agent; readonly count: number },
): Promise<number> {
  let left = count;
  let failed = 0;
  const worker = async (): Promise<void> => {
    while (left-- > 0) {
      const blob = origin.add(BLOB_BYTES);
      const url = `${cluster.children[0]?.local}/${origin.url('bench', blob)}`;
      const part = { bytes: blob.bytes, offset: 0, length: BLOB_BYTES };
      await fetchPart(agent, url, part).catch(() => failed++);
      origin.forget(blob);
    }
  };
  await Promise.all(Array.from({ length: READS_RUNNING }, worker));
  return failed;
}

/** Resident memory of an agent, in MiB. */
async function residentMib(host: ClusterHost): Promise<number> {
  const status = await readFile(`/proc/${host.process.pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) / 1024;
}
