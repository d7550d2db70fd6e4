import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { cp, mkdir, mkdtemp, readFile, rename, rm, symlink } from 'node:fs/promises';
import { get } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { AgentCluster, ClusterHost } from '../src/demo/agent-cluster.ts';
import { EmbeddedRegistry } from '../src/demo/embedded-registry.ts';
import { SystemClock } from '../src/runtime/node/clock.ts';
import { assert } from '../src/util/assert.ts';
import { MIB } from '../src/util/bytes.ts';
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

/** Bytes of one request of a reader, and its requests in flight. */
const READ_BYTES = MIB;
const READS_RUNNING = 4;

const REPOSITORY = 'bench';

const PROJECT = fileURLToPath(new URL('..', import.meta.url));

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

/** The code that starts agents: from the checkout, or from a package made of it. */
async function clusterCode(
  dir: string,
  size: 'full' | 'smoke',
): Promise<{
  readonly AgentCluster: new (...init: ConstructorParameters<typeof AgentCluster>) => AgentCluster;
}> {
  if (size === 'smoke') return import('../src/demo/agent-cluster.ts');
  const root = join(dir, 'package');
  const modules = join(PROJECT, 'node_modules');
  await mkdir(root);
  for (const part of ['bin', 'package.json']) {
    await cp(join(PROJECT, part), join(root, part), { recursive: true });
  }
  await symlink(modules, join(root, 'node_modules'));
  const compiler = join(modules, 'typescript', 'bin', 'tsc');
  const args = [compiler, '-p', 'tsconfig.build.json', '--outDir', join(root, 'dist')];
  await promisify(execFile)(process.execPath, args, { cwd: PROJECT });
  return import(join(root, 'dist', 'agent', 'demo', 'agent-cluster.js'));
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

async function readAll(url: string, sizeBytes: number): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < sizeBytes) {
      const first = next;
      next += READ_BYTES;
      await readRange(url, first, Math.min(next, sizeBytes) - 1);
    }
  };
  await Promise.all(Array.from({ length: READS_RUNNING }, worker));
}

async function readRange(url: string, first: number, last: number): Promise<void> {
  const request = get(url, { headers: { range: `bytes=${first}-${last}` } });
  const [response] = await once(request, 'response');
  let count = 0;
  for await (const piece of response) count += piece.length;
  assert(response.statusCode === 206 && count === last - first + 1, `${url} answered ${count}`);
}

/** Writes a blob of random bytes to an OCI layout; returns its digest. */
async function writeBlob(layoutDir: string, sizeBytes: number): Promise<string> {
  const folder = join(layoutDir, 'blobs', 'sha256');
  await mkdir(folder, { recursive: true });
  const temporary = join(folder, 'new');
  const file = createWriteStream(temporary);
  const hash = createHash('sha256');
  const piece = randomBytes(MIB);
  for (let written = 0; written < sizeBytes; written += piece.length) {
    // Every block has different contents.
    piece.writeUInt32LE(written / MIB, 0);
    hash.update(piece);
    if (!file.write(Uint8Array.from(piece))) await once(file, 'drain');
  }
  file.end();
  await once(file, 'close');
  const hex = hash.digest('hex');
  await rename(temporary, join(folder, hex));
  return `sha256:${hex}`;
}
