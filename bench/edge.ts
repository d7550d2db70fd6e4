import { Agent } from 'node:http';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { AgentCluster, type ClusterHost } from '../src/demo/agent-cluster.ts';
import { BLOCK_SIZE_BYTES } from '../src/image/block.ts';
import { SystemClock } from '../src/runtime/node/clock.ts';
import { MIB } from '../src/util/bytes.ts';
import { FakeRegistry } from '../test/kit/fake-registry.ts';
import { distinctBytes, downloadReads, fetchPart, makeImage, replay } from './overlaybd-client.ts';
import { timed, verdict, type BenchRow } from './rows.ts';

/** What the origin may send, all together. */
const ORIGIN_BYTES_PER_SECOND = 100e6;

/**
 * Slower rates. At full speed the agents on two cores take longer for their own work than the
 * origin for its bytes, and the time says nothing of the tree. At these rates it does: on hosts of
 * their own, agents have 16 times the processor time of here.
 */
const SLOW_BYTES_PER_SECOND = {
  image: { full: 2.5e6, smoke: 50e6 },
  whole: { full: 25e6, smoke: 50e6 },
};

const AGENTS = { full: 16, smoke: 2 };

/** Of one image; the reads of a container are spread over them. */
const LAYERS_BYTES = {
  full: [16 * MIB, 24 * MIB, 40 * MIB],
  smoke: [MIB, MIB, MIB],
};

/** Reads of a container after those that open its image. */
const RANDOM_READS = { full: 300, smoke: 30 };

const WHOLE_BYTES = { full: 64 * MIB, smoke: 2 * MIB };

/** Reads from memory, of each size. */
const HOT_READS = { full: 20_000, smoke: 200 };
const HOT_SIZES_BYTES = [105, 4096, 65_536];
const HOT_CONNECTIONS = 8;

/** Goals of the project. */
const AMPLIFICATION_MAX = 1.05;
const SLOWDOWN_MAX = 1.3;

const clock = new SystemClock();

type Size = 'full' | 'smoke';

/**
 * overlaybd's request pattern through agents in processes of their own, next to the same straight
 * from the origin.
 */
export async function benchEdge(options: {
  smoke: boolean;
  /** Fewer than usual, for a look on a busy machine. */
  agents?: number;
}): Promise<BenchRow[]> {
  const size: Size = options.smoke ? 'smoke' : 'full';
  // As bin/xylem.js has it for agents: this process, all clients and the origin, would else spend
  // most of its time on full collections, and it shares the processors with the agents.
  setFlagsFromString('--heap-growing-percent=200');
  const dir = await mkdtemp(join(tmpdir(), 'xylem-bench-'));
  const origin = new FakeRegistry({ throttle: { clock, bytesPerSecond: ORIGIN_BYTES_PER_SECOND } });
  await origin.start();
  const cluster = new AgentCluster({
    dir,
    roots: 1,
    children: options.agents ?? AGENTS[size],
    registry: origin.address,
    devices: false,
  });
  try {
    await cluster.start();
    const rows = [
      // The code of agents that have just started is interpreted; after some images it is machine
      // code.
      ...(await benchImage(origin, cluster, { size, what: 'first image' })),
      ...(await benchImage(origin, cluster, { size, what: 'image' })),
      ...(await benchDirect(origin, cluster, size)),
      ...(await benchWhole(origin, cluster, { size, what: 'whole blob' })),
      ...(await benchHot(origin, cluster, size)),
    ];
    origin.throttle = { clock, bytesPerSecond: SLOW_BYTES_PER_SECOND.image[size] };
    rows.push(...(await benchImage(origin, cluster, { size, what: 'image, slow origin' })));
    origin.throttle = { clock, bytesPerSecond: SLOW_BYTES_PER_SECOND.whole[size] };
    rows.push(...(await benchWhole(origin, cluster, { size, what: 'whole blob, slow origin' })));
    return rows;
  } finally {
    await cluster.stop();
    await origin.stop();
    await rm(dir, { recursive: true, force: true });
  }
}

/** The pattern of a container start: by one agent, then by all at once. */
async function benchImage(
  origin: FakeRegistry,
  cluster: AgentCluster,
  { size, what }: { size: Size; what: string },
): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  const bases = cluster.children.map((host) => `${host.local}/`);
  const seconds: number[] = [];
  for (const count of [1, bases.length]) {
    const image = makeImage(origin, LAYERS_BYTES[size], RANDOM_READS[size]);
    const urls = image.layers.map((layer) => origin.url('bench', layer));
    const before = origin.sentBytes;
    const cpuBefore = await cpuSeconds(cluster.hosts);
    const took = await timed(() =>
      Promise.all(bases.slice(0, count).map((base) => replay(base, urls, image))),
    );
    const cpu = (await cpuSeconds(cluster.hosts)) - cpuBefore;
    const ratio = (origin.sentBytes - before) / distinctBytes(image);
    seconds.push(took);
    const note = verdict(ratio <= AMPLIFICATION_MAX, `at most ${AMPLIFICATION_MAX}`);
    rows.push(
      {
        bench: 'edge',
        what: `${what}, ${count} agents`,
        value: took,
        unit: 's',
        note: cpuNote(cpu),
      },
      {
        bench: 'edge',
        what: `${what}, ${count} agents, origin bytes`,
        value: ratio,
        unit: 'x',
        note,
      },
    );
  }
  const [alone = 1, together = 1] = seconds;
  const slowdown = together / alone;
  const note = verdict(slowdown <= SLOWDOWN_MAX, `at most ${SLOWDOWN_MAX}`);
  rows.push({ bench: 'edge', what: `${what}, all to one`, value: slowdown, unit: 'x', note });
  return rows;
}

/** The same without agents. */
async function benchDirect(
  origin: FakeRegistry,
  cluster: AgentCluster,
  size: Size,
): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  for (const count of [1, cluster.children.length]) {
    const image = makeImage(origin, LAYERS_BYTES[size], RANDOM_READS[size]);
    const urls = image.layers.map((layer) => origin.url('bench', layer));
    const took = await timed(() =>
      Promise.all(Array.from({ length: count }, () => replay('', urls, image))),
    );
    rows.push({ bench: 'edge', what: `image, ${count} direct`, value: took, unit: 's' });
  }
  return rows;
}

/** A whole blob, in the pieces of background downloads. */
async function benchWhole(
  origin: FakeRegistry,
  cluster: AgentCluster,
  { size, what }: { size: Size; what: string },
): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  const bases = cluster.children.map((host) => `${host.local}/`);
  for (let count = 1; count <= bases.length; count *= 2) {
    const cpuBefore = await cpuSeconds(cluster.hosts);
    const loaded = await download(origin, bases.slice(0, count), size);
    const through = { ...loaded, cpu: (await cpuSeconds(cluster.hosts)) - cpuBefore };
    const direct = await download(origin, Array<string>(count).fill(''), size);
    const note =
      count === 1 ? '' : `; ${verdict(through.seconds < direct.seconds, 'faster than direct')}`;
    rows.push({
      bench: 'edge',
      what: `${what}, ${count} agents`,
      value: through.seconds,
      unit: 's',
      note:
        `direct ${direct.seconds.toFixed(2)} s; origin bytes ${through.ratio.toFixed(2)} x; ` +
        `${cpuNote(through.cpu)}${note}`,
    });
  }
  return rows;
}

async function download(origin: FakeRegistry, bases: readonly string[], size: Size) {
  const blob = origin.add(WHOLE_BYTES[size]);
  const reads = downloadReads(blob.bytes.length);
  const before = origin.sentBytes;
  const urls = [origin.url('bench', blob)];
  const seconds = await timed(() =>
    Promise.all(bases.map((base) => replay(base, urls, { layers: [blob], reads }))),
  );
  return { seconds, ratio: (origin.sentBytes - before) / blob.bytes.length };
}

/** Reads of bytes that are in the agent's memory. */
async function benchHot(
  origin: FakeRegistry,
  cluster: AgentCluster,
  size: Size,
): Promise<BenchRow[]> {
  const blob = origin.add(BLOCK_SIZE_BYTES);
  const url = `${cluster.children[0]?.local}/${origin.url('bench', blob)}`;
  const rows: BenchRow[] = [];
  for (const length of HOT_SIZES_BYTES) {
    const agent = new Agent({ keepAlive: true, maxSockets: HOT_CONNECTIONS });
    await fetchPart(agent, url, { bytes: blob.bytes, offset: 0, length: 1 });
    const latenciesMs: number[] = [];
    let left = HOT_READS[size];
    const worker = async (): Promise<void> => {
      while (left-- > 0) {
        const startMs = clock.nowMs();
        const offset = (left * 997) % (BLOCK_SIZE_BYTES - length);
        await fetchPart(agent, url, { bytes: blob.bytes, offset, length });
        latenciesMs.push(clock.nowMs() - startMs);
      }
    };
    const cpuBefore = await cpuSeconds(cluster.children.slice(0, 1));
    const seconds = await timed(() => Promise.all(Array.from({ length: HOT_CONNECTIONS }, worker)));
    const cpuUs =
      (((await cpuSeconds(cluster.children.slice(0, 1))) - cpuBefore) / HOT_READS[size]) * 1e6;
    agent.destroy();
    latenciesMs.sort((a, b) => a - b);
    const at = (share: number): string =>
      (latenciesMs[Math.floor(latenciesMs.length * share)] ?? 0).toFixed(2);
    rows.push({
      bench: 'edge',
      what: `${length} bytes from memory`,
      value: HOT_READS[size] / seconds,
      unit: '/s',
      note: `p50 ${at(0.5)} ms, p99 ${at(0.99)} ms; agent ${cpuUs.toFixed(0)} us CPU each`,
    });
  }
  return rows;
}

/** Of these agents, since their start. */
async function cpuSeconds(hosts: readonly ClusterHost[]): Promise<number> {
  const seconds = hosts.map(async (host) => {
    const stat = await readFile(`/proc/${host.process.pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    // utime and stime, in ticks of 10 ms (proc_pid_stat(5)).
    return (Number(fields[11]) + Number(fields[12])) / 100;
  });
  return (await Promise.all(seconds)).reduce((sum, each) => sum + each, 0);
}

function cpuNote(seconds: number): string {
  return `${seconds.toFixed(1)} s of CPU in all agents`;
}
