import { mkdtemp, rm } from 'node:fs/promises';
import { Agent } from 'node:http';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { AgentCluster, type ClusterHost } from '../src/demo/agent-cluster.ts';
import { SystemClock } from '../src/runtime/node/clock.ts';
import { MIB } from '../src/util/bytes.ts';
import { FakeRegistry, type FakeBlob } from '../test/kit/fake-registry.ts';
import { distinctBytes, fetchPart, type Read } from './overlaybd-client.ts';
import { timed, verdict, type BenchOptions, type BenchRow } from './rows.ts';

const ORIGIN_BYTES_PER_SECOND = 60e6;
const CHILDREN = { full: 8, smoke: 2 };
const ROUNDS = { full: 3, smoke: 1 };
const LAYERS_BYTES = {
  full: [48 * MIB, 24 * MIB, 16 * MIB, 6 * MIB],
  smoke: [9 * MIB, 2 * MIB],
};

/** Of each host: reads of a container at random places, four at a time. */
const READS = { full: 150, smoke: 20 };
const READS_RUNNING = 4;
const READ_BYTES_MAX = 512 * 1024;

/** Goal of the project. */
const AMPLIFICATION_MAX = 1.01;

/**
 * What the origin sends, next to what is distinct of it, when hosts below two roots read new layers
 * in every way at once: small and larger ranges at random places, and half of the hosts two of the
 * layers whole.
 */
export async function benchMixed({ smoke, onRow }: BenchOptions): Promise<BenchRow[]> {
  const size = smoke ? 'smoke' : 'full';
  const dir = await mkdtemp(join(tmpdir(), 'xylem-bench-'));
  const throttle = { clock: new SystemClock(), bytesPerSecond: ORIGIN_BYTES_PER_SECOND };
  const origin = new FakeRegistry({ throttle });
  await origin.start();
  const shape = { roots: 2, children: CHILDREN[size], devices: false };
  const cluster = new AgentCluster({ dir, ...shape, registry: origin.address });
  try {
    await cluster.start();
    const rows: BenchRow[] = [];
    for (let round = 1; round <= ROUNDS[size]; round++) {
      const row = await readMixed(origin, cluster, { size, round });
      onRow?.(row);
      rows.push(row);
    }
    return rows;
  } finally {
    await cluster.stop();
    await origin.stop();
    await rm(dir, { recursive: true, force: true });
  }
}

async function readMixed(
  origin: FakeRegistry,
  cluster: AgentCluster,
  { size, round }: { readonly size: 'full' | 'smoke'; readonly round: number },
): Promise<BenchRow> {
  const hosts = cluster.children;
  const layers = LAYERS_BYTES[size].map((bytes) => origin.add(bytes));
  const draw = numbers(round);
  const plans = hosts.map((_, i) => planOf(layers, { draw, count: READS[size], number: i }));
  const before = { bytes: origin.sentBytes, requests: origin.asked.length };
  const takenBefore = await taken(cluster);
  const seconds = await timed(() =>
    Promise.all(hosts.map((host, i) => readAll(origin, host, { layers, reads: plans[i] ?? [] }))),
  );
  const distinct = distinctBytes({ layers, reads: plans.flat() });
  const ratio = (origin.sentBytes - before.bytes) / distinct;
  const requests = origin.asked.length - before.requests;
  const [roots, fallback] = (await taken(cluster)).map((bytes, i) => bytes - (takenBefore[i] ?? 0));
  return {
    bench: 'mixed',
    what: `origin over distinct, ${hosts.length} hosts, 2 roots, round ${round}`,
    value: ratio,
    unit: 'x',
    note:
      `${seconds.toFixed(1)} s, ${(distinct / MIB).toFixed(0)} MiB, ${requests} requests; ` +
      `roots took ${((roots ?? 0) / distinct).toFixed(3)} x, fallback ${fallback} B; ` +
      `load ${(loadavg()[0] ?? 0).toFixed(1)}; ` +
      verdict(ratio <= AMPLIFICATION_MAX, `at most ${AMPLIFICATION_MAX} x`),
  };
}

/** Bytes that the roots took of the origin, and those that any host did as its last resort. */
async function taken(cluster: AgentCluster): Promise<readonly [number, number]> {
  const status = await Promise.all(cluster.hosts.map((host) => cluster.status(host)));
  const sum = (source: string): number =>
    status.reduce((all, { bytesBySource }) => all + (bytesBySource[source] ?? 0), 0);
  return [sum('origin'), sum('fallback')];
}

type Plan = readonly Read[];

/** What a host reads; every other one begins with two whole layers. */
function planOf(
  layers: readonly FakeBlob[],
  init: {
    readonly draw: (limit: number) => number;
    readonly count: number;
    readonly number: number;
  },
): Plan {
  const { draw, count, number } = init;
  const whole = number % 2 === 0 ? [number % layers.length, (number + 1) % layers.length] : [];
  const wholes = whole.map((layer) => ({ layer, offset: 0, length: sizeOf(layers, layer) }));
  const parts = Array.from({ length: count }, (): Read => {
    const layer = draw(layers.length);
    const length = 1 + draw(draw(4) === 0 ? READ_BYTES_MAX : 4096);
    return { layer, length, offset: draw(sizeOf(layers, layer) - length) };
  });
  return [...wholes, ...parts];
}

function sizeOf(layers: readonly FakeBlob[], layer: number): number {
  return layers[layer]?.bytes.length ?? 0;
}

async function readAll(
  origin: FakeRegistry,
  host: ClusterHost,
  { layers, reads }: { readonly layers: readonly FakeBlob[]; readonly reads: Plan },
): Promise<void> {
  const agent = new Agent({ keepAlive: true });
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let read = reads[next++]; read !== undefined; read = reads[next++]) {
      const blob = layers[read.layer];
      if (blob === undefined) continue;
      const whole = read.length === blob.bytes.length;
      const url = `${host.local}/${origin.url('bench', blob)}`;
      await fetchPart(agent, url, { ...read, bytes: blob.bytes, whole });
    }
  };
  await Promise.all(Array.from({ length: READS_RUNNING }, worker));
  agent.destroy();
}

/** The same numbers for the same seed. */
function numbers(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}
