import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { AgentCluster, type ClusterHost } from '../src/demo/agent-cluster.ts';
import { MIB } from '../src/util/bytes.ts';
import { FakeRegistry } from '../test/kit/fake-registry.ts';
import { verdict, type BenchRow } from './rows.ts';

const CHILDREN = 4;

/** New blobs, one a second, each first read at all children at the same time. */
const SECONDS = {
  full: { warm: 10, well: 15, stopped: 60, back: 15 },
  smoke: { warm: 2, well: 2, stopped: 4, back: 2 },
};
const BLOB_BYTES = MIB;
const READ_BYTES = 4096;

/** Longest wait of a reader. */
const READ_MS_MAX = 30_000;

/** Goal of the project: a root that stands still is hardly noticed. */
const P99_MS_MAX = 1_500;

interface Reads {
  readonly tookMs: number[];
  failed: number;
  /** What the first failed read was told. */
  failure: string | undefined;
}

/**
 * First reads of new blobs while one of two roots stands still (SIGSTOP), for each of them in turn.
 */
export async function benchRoots(options: { smoke: boolean }): Promise<BenchRow[]> {
  const seconds = SECONDS[options.smoke ? 'smoke' : 'full'];
  const dir = await mkdtemp(join(tmpdir(), 'xylem-bench-'));
  const registry = new FakeRegistry();
  await registry.start();
  const cluster = new AgentCluster({
    dir,
    roots: 2,
    children: CHILDREN,
    registry: registry.address,
    devices: false,
  });
  try {
    await cluster.start();
    const read = (count: number): Promise<Reads> => readNewBlobs(cluster, registry, count);
    // Agents that have just started run interpreted code.
    await read(seconds.warm);
    const rows = rowsOf('all well', await read(seconds.well));
    for (const root of cluster.roots) {
      root.process.signal('SIGSTOP');
      try {
        rows.push(...rowsOf(`${root.name} stopped`, await read(seconds.stopped)));
      } finally {
        root.process.signal('SIGCONT');
      }
      rows.push(...rowsOf(`${root.name} back`, await read(seconds.back)));
    }
    return rows;
  } finally {
    await cluster.stop();
    await registry.stop();
    await rm(dir, { recursive: true, force: true });
  }
}

async function readNewBlobs(
  cluster: AgentCluster,
  registry: FakeRegistry,
  count: number,
): Promise<Reads> {
  const reads: Reads = { tookMs: [], failed: 0, failure: undefined };
  const rounds: Promise<unknown>[] = [];
  for (let i = 0; i < count; i++) {
    const blob = registry.add(BLOB_BYTES);
    const url = registry.url('bench', blob);
    const expected = blob.bytes.subarray(0, READ_BYTES);
    rounds.push(...cluster.children.map((host) => readOne(host, { url, expected }, reads)));
    await sleep(1_000);
  }
  await Promise.all(rounds);
  return reads;
}

async function readOne(
  host: ClusterHost,
  { url, expected }: { url: string; expected: Uint8Array },
  reads: Reads,
): Promise<void> {
  const startedMs = performance.now();
  try {
    const response = await fetch(`${host.local}/${url}`, {
      headers: { range: `bytes=0-${READ_BYTES - 1}` },
      signal: AbortSignal.timeout(READ_MS_MAX),
    });
    const bytes = Buffer.from(await response.arrayBuffer());
    if (response.status === 206 && bytes.equals(expected)) return;
    reads.failed++;
    reads.failure ??= `${host.name}: ${response.status} ${bytes.toString('utf8', 0, 200)}`;
  } catch (error) {
    reads.failed++;
    reads.failure ??= `${host.name}: ${String((error as Error).cause ?? error)}`;
  } finally {
    reads.tookMs.push(performance.now() - startedMs);
  }
}

function rowsOf(what: string, { tookMs, failed, failure }: Reads): BenchRow[] {
  const sorted = tookMs.toSorted((a, b) => a - b);
  const at = (share: number): number => sorted[Math.floor((sorted.length - 1) * share)] ?? 0;
  const p99 = at(0.99);
  const met = verdict(p99 <= P99_MS_MAX && failed === 0, `at most ${P99_MS_MAX} ms, none failed`);
  const note = `p50 ${at(0.5).toFixed(0)}, max ${at(1).toFixed(0)} ms; ${met}`;
  return [
    { bench: 'roots', what: `${what}, first reads, p99`, value: p99, unit: 'ms', note },
    {
      bench: 'roots',
      what: `${what}, failed`,
      value: failed,
      unit: `of ${tookMs.length}`,
      ...(failure !== undefined && { note: failure }),
    },
  ];
}
