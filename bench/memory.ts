import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { AgentCluster, ClusterHost } from '../src/demo/agent-cluster.ts';
import { EmbeddedRegistry } from '../src/demo/embedded-registry.ts';
import { SystemClock } from '../src/runtime/node/clock.ts';
import { assert } from '../src/util/assert.ts';
import { MIB } from '../src/util/bytes.ts';
import { clusterCode, readAll, writeBlob } from './packaged-cluster.ts';
import type { BenchRow } from './rows.ts';

/**
 * Memory that an agent may use, in MiB: idle, and relaying at full speed. Requirements of the
 * project.
 */
const IDLE_MIB_MAX = 96;
const RELAYING_MIB_MAX = 192;

/**
 * Large enough for eight stripes, so that every child relays some of them, and for the caches to
 * fill many times over.
 */
const BLOB_BYTES = { full: 512 * MIB, smoke: 72 * MIB };
const CHILDREN = { full: 4, smoke: 2 };

/** Wait between the start and the idle measurement. */
const IDLE_MS = { full: 15_000, smoke: 1_000 };

/** Interval between samples of the resident memory while agents relay blocks. */
const SAMPLE_MS = 100;

const REPOSITORY = 'bench';

const clock = new SystemClock();

/**
 * Measures the resident memory of agents in processes of their own: idle, and while all of them
 * read a blob down the trees at once. At full size they run from a package, as installed agents do:
 * the type stripper that a checkout needs takes 28 MiB in each agent.
 */
export async function benchMemory(options: { smoke: boolean }): Promise<BenchRow[]> {
  const size = options.smoke ? 'smoke' : 'full';
  const dir = await mkdtemp(join(tmpdir(), 'xylem-bench-'));
  const layoutDir = join(dir, 'oci');
  const registry = new EmbeddedRegistry({ layoutDir, repository: REPOSITORY });
  let cluster: AgentCluster | undefined;
  try {
    const digest = await writeBlob(layoutDir, BLOB_BYTES[size]);
    await registry.start();
    const { AgentCluster } = await clusterCode(dir, size);
    cluster = new AgentCluster({
      dir,
      roots: 1,
      children: CHILDREN[size],
      registry: registry.address,
      devices: false,
    });
    await cluster.start();
    await clock.sleep(IDLE_MS[size]);
    const idle = await rowsOf('idle', cluster, IDLE_MIB_MAX, residentMib);
    const url = `http://${registry.address}/v2/${REPOSITORY}/blobs/${digest}`;
    return [...idle, ...(await relay(cluster, url, BLOB_BYTES[size]))];
  } finally {
    await cluster?.stop();
    await registry.stop();
    await rm(dir, { recursive: true, force: true });
  }
}

/** Resident memory of a process, in MiB. */
interface Resident {
  readonly all: number;
  /** The process's own pages: heap, buffers, stacks. */
  readonly anonymous: number;
  /**
   * Pages of files: the system keeps one copy for all processes and reclaims pages that it needs.
   */
  readonly files: number;
}

/** Every child reads all of the blob, front to back. */
async function relay(cluster: AgentCluster, url: string, sizeBytes: number): Promise<BenchRow[]> {
  const peaks = new Map<ClusterHost, Resident>();
  const stop = new AbortController();
  const sampling = sample(cluster, peaks, stop.signal);
  const beforeMs = clock.nowMs();
  await Promise.all(cluster.children.map((host) => readAll(`${host.local}/${url}`, sizeBytes)));
  const seconds = (clock.nowMs() - beforeMs) / 1000;
  const trees = await Promise.all(cluster.children.map((host) => cluster.trees(host)));
  const relays = trees.filter((seats) => seats.some(({ children }) => children.length > 0)).length;
  stop.abort();
  await sampling;
  const speed = (sizeBytes * cluster.children.length) / MIB / seconds;
  const note = `${relays} of ${cluster.children.length} children relayed`;
  return [
    { bench: 'memory', what: 'all children together', value: speed, unit: 'MiB/s', note },
    ...(await rowsOf('relaying, highest', cluster, RELAYING_MIB_MAX, async (host) => {
      const peak = peaks.get(host);
      assert(peak !== undefined, 'every host was sampled');
      return peak;
    })),
  ];
}

/** Rows for the largest root and for the largest child. */
async function rowsOf(
  what: string,
  cluster: AgentCluster,
  mibMax: number,
  measure: (host: ClusterHost) => Promise<Resident>,
): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  for (const [name, hosts] of [
    ['root', cluster.roots],
    ['child', cluster.children],
  ] as const) {
    const all = await Promise.all(hosts.map(measure));
    const largest = all.reduce((a, b) => (b.all > a.all ? b : a));
    const note = `${largest.all <= mibMax ? 'within' : 'OVER'} ${mibMax} MiB`;
    const of = `of a ${name}, ${what}`;
    rows.push(
      { bench: 'memory', what: `RSS ${of}`, value: largest.all, unit: 'MiB', note },
      { bench: 'memory', what: `RssAnon ${of}`, value: largest.anonymous, unit: 'MiB' },
      { bench: 'memory', what: `RssFile ${of}`, value: largest.files, unit: 'MiB' },
    );
  }
  return rows;
}

async function sample(
  cluster: AgentCluster,
  peaks: Map<ClusterHost, Resident>,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    for (const host of cluster.hosts) {
      const now = await residentMib(host);
      if (now.all > (peaks.get(host)?.all ?? 0)) peaks.set(host, now);
    }
    await clock.sleep(SAMPLE_MS, signal).catch(() => {});
  }
}

async function residentMib(host: ClusterHost): Promise<Resident> {
  const status = await readFile(`/proc/${host.process.pid}/status`, 'utf8');
  const mib = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1]) / 1024;
  const all = mib('VmRSS');
  assert(all > 0, `the resident memory of ${host.name} is known`);
  return { all, anonymous: mib('RssAnon'), files: mib('RssFile') };
}
