import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { AgentCluster, ClusterHost } from '../src/demo/agent-cluster.ts';
import { EmbeddedRegistry } from '../src/demo/embedded-registry.ts';
import { SystemClock } from '../src/runtime/node/clock.ts';
import { defined } from '../src/util/assert.ts';
import { MIB } from '../src/util/bytes.ts';
import { clusterCode, readAll, writeBlob } from './packaged-cluster.ts';
import { verdict, type BenchRow } from './rows.ts';

const BLOB_BYTES = { full: 64 * MIB, smoke: 2 * MIB };

/** Blobs after the first; the cheapest of them is what warm code costs. */
const LATER_BLOBS = { full: 5, smoke: 2 };

/** Wait after the start, and the long one: V8 throws away code that has not run for a while. */
const SETTLE_MS = { full: 15_000, smoke: 1_000 };
const IDLE_MS = { full: 600_000, smoke: 1_000 };

/** Most that a first blob may cost, of what a later one does. A goal of the project. */
const COLD_MAX = 2;

/** Linux counts processor time in these (`getconf CLK_TCK`). */
const TICKS_PER_SECOND = 100;

const REPOSITORY = 'bench';

const clock = new SystemClock();

/**
 * Processor time of a root and of a child for a blob that only the registry has: the first of their
 * lives, later ones, and one after ten idle minutes. At full size they run from a package.
 */
export async function benchCold(options: { readonly smoke: boolean }): Promise<BenchRow[]> {
  const size = options.smoke ? 'smoke' : 'full';
  const dir = await mkdtemp(join(tmpdir(), 'xylem-bench-'));
  const layoutDir = join(dir, 'oci');
  const registry = new EmbeddedRegistry({ layoutDir, repository: REPOSITORY });
  let cluster: AgentCluster | undefined;
  try {
    const digests: string[] = [];
    for (let i = 0; i < LATER_BLOBS[size] + 2; i++) {
      digests.push(await writeBlob(layoutDir, BLOB_BYTES[size]));
    }
    await registry.start();
    const { AgentCluster } = await clusterCode(dir, size);
    const { address } = registry;
    const init = { dir, roots: 1, children: 1, registry: address, devices: false };
    cluster = new AgentCluster(init);
    await cluster.start();
    await clock.sleep(SETTLE_MS[size]);
    const { hosts, children } = cluster;
    const child = defined(children[0], 'a child');
    const costs: (readonly number[])[] = [];
    for (const [i, digest] of digests.entries()) {
      if (i === digests.length - 1) await clock.sleep(IDLE_MS[size]);
      const before = await Promise.all(hosts.map(cpuSeconds));
      const url = `http://${address}/v2/${REPOSITORY}/blobs/${digest}`;
      await readAll(`${child.local}/${url}`, BLOB_BYTES[size]);
      const after = await Promise.all(hosts.map(cpuSeconds));
      costs.push(after.map((seconds, host) => seconds - (before[host] ?? 0)));
    }
    return hosts.flatMap(({ role }, host) =>
      rowsOf(
        role,
        costs.map((cost) => cost[host] ?? 0),
      ),
    );
  } finally {
    await cluster?.stop();
    await registry.stop();
    await rm(dir, { recursive: true, force: true });
  }
}

function rowsOf(role: string, costs: readonly number[]): BenchRow[] {
  const later = Math.min(...costs.slice(1, -1));
  const row = (what: string, value: number, isJudged: boolean): BenchRow => {
    const all = { bench: 'cold', what: `CPU of a ${role}, ${what}`, value, unit: 's' };
    if (!isJudged) return all;
    const ratio = value / later;
    const goal = verdict(ratio <= COLD_MAX, `${COLD_MAX} x a later one`);
    return { ...all, note: `${ratio.toFixed(2)} x, ${goal}` };
  };
  return [
    row('the first blob of its life', costs[0] ?? 0, true),
    row('a later blob, the cheapest', later, false),
    row('a blob after ten idle minutes', costs.at(-1) ?? 0, true),
  ];
}

/** Processor time that a process has used, in user and kernel mode. */
async function cpuSeconds({ process }: ClusterHost): Promise<number> {
  const stat = await readFile(`/proc/${process.pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}
