import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { AgentCluster } from '../src/demo/agent-cluster.ts';
import { SystemClock } from '../src/runtime/node/clock.ts';
import { MIB } from '../src/util/bytes.ts';
import { FakeRegistry, type FakeBlob } from '../test/kit/fake-registry.ts';
import { downloadReads, replay } from './overlaybd-client.ts';
import { timed, verdict, type BenchRow } from './rows.ts';

const ORIGIN_BYTES_PER_SECOND = 100e6;

/** Of a blob that a client reads whole, in the pieces of background downloads. */
const BLOB_BYTES = { full: 64 * MIB, smoke: 2 * MIB };

const COUNTS = { full: [2, 16], smoke: [2] };

/** Other programs on the machine, in the second half of the rows. */
const BUSY_LOOPS = 4;

/** Goals of the project. */
const AMPLIFICATION_MAX = 1.02;
const STORAGE_SLOWDOWN_MAX = 1.1;
const PRIVATE_SLOWDOWN_MAX = 1.3;

const TOKEN = 'Bearer of-the-client';

/** One kind of URL that clients send. */
interface Road {
  readonly name: string;
  /** URL and headers of one client. */
  request(
    origin: FakeRegistry,
    blob: FakeBlob,
    client: number,
  ): { readonly url: string; readonly headers?: Readonly<Record<string, string>> };
  /** Whether the blocks are shared between hosts, so that the origin sends each about once. */
  readonly shared: boolean;
}

const ROADS: readonly Road[] = [
  {
    name: 'registry URL',
    request: (origin, blob) => ({ url: origin.url('bench', blob) }),
    shared: true,
  },
  {
    name: 'storage URL',
    request: (origin, blob, client) => ({ url: origin.signedUrl(blob, `sig=host-${client}`) }),
    shared: true,
  },
  {
    name: 'private, own way',
    request: (origin, blob) => ({
      url: origin.url('private', blob),
      headers: { authorization: TOKEN },
    }),
    shared: false,
  },
];

/**
 * A blob by each road that real clients take: from one root and up to 16 agents in processes of
 * their own, next to the same straight from the origin.
 */
export async function benchRoads(options: { smoke: boolean }): Promise<BenchRow[]> {
  const size = options.smoke ? 'smoke' : 'full';
  setFlagsFromString('--heap-growing-percent=200');
  const dir = await mkdtemp(join(tmpdir(), 'xylem-bench-'));
  const throttle = { clock: new SystemClock(), bytesPerSecond: ORIGIN_BYTES_PER_SECOND };
  const origin = new FakeRegistry({ throttle });
  origin.behaviours.set('/v2/private/', (request, response) => {
    if (request.headers.authorization === TOKEN) return false;
    response.writeHead(401, { 'www-authenticate': 'Basic realm="bench"' }).end();
    return true;
  });
  await origin.start();
  const storage = [`http://${origin.address}/docker/`];
  const cluster = new AgentCluster({
    dir,
    roots: 1,
    children: Math.max(...COUNTS[size]),
    registry: origin.address,
    devices: false,
    config: () => ({ registries: [{ host: origin.address, insecure: true, storage }] }),
  });
  try {
    await cluster.start();
    const run = { origin, cluster, sizeBytes: BLOB_BYTES[size] };
    // Agents that have just started run interpreted code.
    for (const road of ROADS) await readBy(road, run, COUNTS[size][0] ?? 1);
    const rows: BenchRow[] = [];
    for (const count of COUNTS[size]) rows.push(...(await compare(run, count, '')));
    const loops = startLoops();
    try {
      const what = `, ${BUSY_LOOPS} busy loops`;
      for (const count of COUNTS[size]) rows.push(...(await compare(run, count, what)));
    } finally {
      for (const loop of loops) loop.kill('SIGKILL');
    }
    return rows;
  } finally {
    await cluster.stop();
    await origin.stop();
    await rm(dir, { recursive: true, force: true });
  }
}

interface Run {
  readonly origin: FakeRegistry;
  readonly cluster: AgentCluster;
  readonly sizeBytes: number;
}

/** Rows of all roads, with this many agents at once. */
async function compare(run: Run, count: number, beside: string): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  const seconds: number[] = [];
  for (const road of ROADS) {
    const through = await readBy(road, run, count);
    const direct = await readBy(road, run, count, true);
    seconds.push(through.seconds);
    const ratio = through.seconds / direct.seconds;
    const goal = road.shared
      ? verdict(through.ratio <= AMPLIFICATION_MAX, `origin at most ${AMPLIFICATION_MAX} x`)
      : verdict(ratio <= PRIVATE_SLOWDOWN_MAX, `at most ${PRIVATE_SLOWDOWN_MAX} x direct`);
    rows.push({
      bench: 'roads',
      what: `${road.name}, ${count} agents${beside}`,
      value: through.seconds,
      unit: 's',
      note:
        `direct ${direct.seconds.toFixed(2)} s: ${ratio.toFixed(2)} x; ` +
        `origin bytes ${through.ratio.toFixed(3)} x, requests ${through.requests}, ` +
        `direct ${direct.requests}; fallback ${through.fallbackBytes} B; ${goal}`,
    });
  }
  const [registry = 1, storage = 1] = seconds;
  const ratio = storage / registry;
  rows.push({
    bench: 'roads',
    what: `storage next to registry, ${count} agents${beside}`,
    value: ratio,
    unit: 'x',
    note: verdict(ratio <= STORAGE_SLOWDOWN_MAX, `at most ${STORAGE_SLOWDOWN_MAX} x`),
  });
  return rows;
}

/** A new blob, read by that number of clients at once: through their agents, or straight. */
async function readBy(road: Road, run: Run, count: number, straight = false) {
  const { origin, cluster, sizeBytes } = run;
  const blob = origin.add(sizeBytes);
  const reads = downloadReads(sizeBytes);
  const before = { bytes: origin.sentBytes, fallback: await fallbackBytes(cluster) };
  const seconds = await timed(() =>
    Promise.all(
      cluster.children.slice(0, count).map(({ local }, client) => {
        const { url, headers = {} } = road.request(origin, blob, client);
        return replay(straight ? '' : `${local}/`, [url], { layers: [blob], reads, headers });
      }),
    ),
  );
  return {
    seconds,
    ratio: (origin.sentBytes - before.bytes) / sizeBytes,
    requests: origin.askedFor(blob.hex).length,
    fallbackBytes: (await fallbackBytes(cluster)) - before.fallback,
  };
}

/** Bytes that children read from the origin as their last resort, since their start. */
async function fallbackBytes(cluster: AgentCluster): Promise<number> {
  const status = await Promise.all(cluster.children.map((host) => cluster.status(host)));
  return status.reduce((sum, { bytesBySource }) => sum + (bytesBySource['fallback'] ?? 0), 0);
}

function startLoops(): ChildProcess[] {
  const loop = ['-e', 'for (;;);'];
  return Array.from({ length: BUSY_LOOPS }, () => spawn(process.execPath, loop));
}
