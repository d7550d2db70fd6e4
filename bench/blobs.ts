import { Agent } from 'node:http';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { AgentCluster, type ClusterHost } from '../src/demo/agent-cluster.ts';
import { FakeRegistry } from '../test/kit/fake-registry.ts';
import { fetchPart } from './overlaybd-client.ts';
import { MIB } from '../src/util/bytes.ts';
import { timed, type BenchRow } from './rows.ts';

/** Distinct blobs that one agent sees; a cluster's bound on open blobs is 16,384. */
const BLOBS = { full: 20_000, smoke: 200 };
const BLOB_BYTES = 512;

/** Blobs between two looks at the memory, and reads in flight. */
const LOOKS = 8;
const READS_RUNNING = 8;

/** Loaded by every agent. */
const PROBE = new URL('heap-probe.ts', import.meta.url);

/** Longest wait for an agent's answer, and the time between two looks for it, in milliseconds. */
const PROBE_MS_MAX = 30_000;
const POLL_MS = 20;

/**
 * Blobs that one child and its root see in one life, each read once: age must refuse nothing, and
 * memory must stay flat. Resident memory has garbage and gaps in it too; what is live is left of
 * heap and buffers by a full collection.
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
    await startProbed(cluster, dir);
    const rows: BenchRow[] = [];
    const agent = new Agent({ keepAlive: true, maxSockets: READS_RUNNING });
    let refused = 0;
    for (let look = 1; look <= LOOKS; look++) {
      const seconds = await timed(async () => {
        refused += await readNew(cluster, origin, { agent, count: count / LOOKS });
      });
      const [root = 0, child = 0] = await Promise.all(cluster.hosts.map(residentMib));
      const live = await Promise.all(cluster.hosts.map((host) => liveMib(host, dir)));
      const [liveRoot = 0, liveChild = 0] = live;
      rows.push({
        bench: 'blobs',
        what: `${(count * look) / LOOKS} blobs seen, child`,
        value: child,
        unit: 'MiB',
        note:
          `live ${liveChild.toFixed(1)}; root ${root.toFixed(0)}, live ${liveRoot.toFixed(1)}; ` +
          `${(count / LOOKS / seconds).toFixed(0)} blobs/s; ${refused} refused`,
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

/** Starts the cluster with the probe in every agent, which gets this process's environment. */
async function startProbed(cluster: AgentCluster, dir: string): Promise<void> {
  const { NODE_OPTIONS } = process.env;
  const probe = `${PROBE}?dir=${encodeURIComponent(dir)}`;
  process.env['NODE_OPTIONS'] = `${NODE_OPTIONS ?? ''} --import=${probe}`;
  try {
    await cluster.start();
  } finally {
    if (NODE_OPTIONS === undefined) delete process.env['NODE_OPTIONS'];
    else process.env['NODE_OPTIONS'] = NODE_OPTIONS;
  }
}

/** Heap and buffers of an agent after a full collection, in MiB. */
async function liveMib(host: ClusterHost, dir: string): Promise<number> {
  const file = join(dir, `${host.process.pid}.json`);
  host.process.signal('SIGUSR2');
  for (let waitedMs = 0; waitedMs < PROBE_MS_MAX; waitedMs += POLL_MS) {
    await setTimeout(POLL_MS);
    const text = await readFile(file, 'utf8').catch(() => undefined);
    if (text === undefined) continue;
    await rm(file);
    const { heapUsed, arrayBuffers } = JSON.parse(text) as NodeJS.MemoryUsage;
    return (heapUsed + arrayBuffers) / MIB;
  }
  throw new Error(`${host.name} does not say what memory it has`);
}

/** Resident memory of an agent, in MiB. */
async function residentMib(host: ClusterHost): Promise<number> {
  const status = await readFile(`/proc/${host.process.pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) / 1024;
}
