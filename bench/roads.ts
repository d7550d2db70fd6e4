import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:https';
import { networkInterfaces, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { AgentCluster } from '../src/demo/agent-cluster.ts';
import { stopServer } from '../src/demo/loopback-server.ts';
import { SystemClock } from '../src/runtime/node/clock.ts';
import { MIB } from '../src/util/bytes.ts';
import { makeCertificates } from '../test/kit/certificates.ts';
import { FakeRegistry, type FakeBlob } from '../test/kit/fake-registry.ts';
import { downloadReads, replay } from './overlaybd-client.ts';
import { timed, verdict, type BenchRow } from './rows.ts';

const MAIN = fileURLToPath(new URL('main.ts', import.meta.url));

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

/**
 * Address of a registry that nobody configured, on the loopback of a network namespace of its own:
 * roots read such registries at public addresses alone.
 */
const UNLISTED = '11.0.0.1';

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
    name: 'opaque storage URL',
    request: (origin, blob, client) => {
      const path = `/ecr/${blob.hex.slice(0, 12)}/${blob.hex.slice(12, 44)}`;
      return { url: `${origin.name(path, blob)}${s3Signature(client)}` };
    },
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

/** The query of an S3 URL that one client was given. */
function s3Signature(client: number): string {
  const hex = client.toString(16).padStart(64, '0');
  return (
    '?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20260101T000000Z' +
    `&X-Amz-Credential=host-${client}&X-Amz-Signature=${hex}`
  );
}

/**
 * A blob by each road that real clients take: from one root and up to 16 agents in processes of
 * their own, next to the same straight from the origin.
 */
export async function benchRoads(options: { smoke: boolean }): Promise<BenchRow[]> {
  const rows = await withCluster(ROADS, options);
  return [...rows, ...(await inNamespace(options))];
}

/** Runs `benchUnlisted()` in a network namespace of its own. */
async function inNamespace({ smoke }: { smoke: boolean }): Promise<BenchRow[]> {
  if (process.getuid?.() !== 0) {
    process.stderr.write('roads: no row for a registry in quarantine, which needs root\n');
    return [];
  }
  const dir = await mkdtemp(join(tmpdir(), 'xylem-bench-'));
  try {
    const { caFile } = makeCertificates(dir, UNLISTED);
    const bench = [
      process.execPath,
      MAIN,
      'roads-unlisted',
      '--json',
      ...(smoke ? ['--smoke'] : []),
    ];
    const script = `ip link set lo up && ip addr add ${UNLISTED}/32 dev lo && exec "$@"`;
    const { stdout } = await promisify(execFile)(
      'unshare',
      ['--net', 'sh', '-c', script, 'sh', ...bench],
      { env: { ...process.env, NODE_EXTRA_CA_CERTS: caFile } },
    );
    return JSON.parse(stdout) as BenchRow[];
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** The same for a registry that nobody configured; runs where `UNLISTED` is an own address. */
export function benchUnlisted(options: { smoke: boolean }): Promise<BenchRow[]> {
  const request: Road['request'] = (_origin, { digest }) => ({
    url: `https://${UNLISTED}/v2/bench/blobs/${digest}`,
  });
  return withCluster([{ name: 'unlisted registry, quarantine', request, shared: true }], options);
}

async function withCluster(
  roads: readonly Road[],
  options: { smoke: boolean },
): Promise<BenchRow[]> {
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
  const front = await startFront(origin);
  const storage = [`http://${origin.address}/docker/`];
  const opaqueStorage = [`http://${origin.address}/ecr/`];
  const cluster = new AgentCluster({
    dir,
    roots: 1,
    children: Math.max(...COUNTS[size]),
    registry: origin.address,
    devices: false,
    config: () => ({
      registries: [{ host: origin.address, insecure: true, storage, opaqueStorage }],
    }),
  });
  try {
    await cluster.start();
    const run = { origin, cluster, sizeBytes: BLOB_BYTES[size] };
    // Agents that have just started run interpreted code.
    for (const road of roads) await readBy(road, run, COUNTS[size][0] ?? 1);
    const rows: BenchRow[] = [];
    for (const count of COUNTS[size]) rows.push(...(await compare(roads, run, { count })));
    const loops = startLoops();
    try {
      const beside = `, ${BUSY_LOOPS} busy loops`;
      for (const count of COUNTS[size])
        rows.push(...(await compare(roads, run, { count, beside })));
    } finally {
      for (const loop of loops) loop.kill('SIGKILL');
    }
    return rows;
  } finally {
    await cluster.stop();
    await origin.stop();
    if (front !== undefined) await stopServer(front);
    await rm(dir, { recursive: true, force: true });
  }
}

/** The origin over TLS at `UNLISTED`, where that is an address of this namespace. */
async function startFront(origin: FakeRegistry): Promise<Server | undefined> {
  const caFile = process.env['NODE_EXTRA_CA_CERTS'];
  if (caFile === undefined || networkInterfaces()['lo']?.some(isUnlisted) !== true)
    return undefined;
  const [cert, key] = await Promise.all(
    ['server.pem', 'server.key'].map((name) => readFile(join(dirname(caFile), name))),
  );
  const front = createServer({ cert, key }, (request, response) =>
    origin.answer(request, response),
  );
  front.listen(443, UNLISTED);
  await once(front, 'listening');
  return front;
}

function isUnlisted({ address }: { readonly address: string }): boolean {
  return address === UNLISTED;
}

interface Run {
  readonly origin: FakeRegistry;
  readonly cluster: AgentCluster;
  readonly sizeBytes: number;
}

/** Rows of all roads, with this many agents at once. */
async function compare(
  roads: readonly Road[],
  run: Run,
  { count, beside = '' }: { readonly count: number; readonly beside?: string },
): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  const seconds: number[] = [];
  for (const road of roads) {
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
  const [registry, storage] = seconds;
  if (registry === undefined || storage === undefined) return rows;
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
    requests: origin.askedFor(blob.hex.slice(12, 44)).length,
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
