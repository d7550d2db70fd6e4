import { mkdtemp, rm } from 'node:fs/promises';
import { Agent } from 'node:http';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { AgentCluster, type ClusterHost } from '../src/demo/agent-cluster.ts';
import { SystemClock } from '../src/runtime/node/clock.ts';
import { defined } from '../src/util/assert.ts';
import { MIB } from '../src/util/bytes.ts';
import { FakeRegistry } from '../test/kit/fake-registry.ts';
import {
  distinctBytes,
  downloadReads,
  fetchPart,
  makeImage,
  replay,
  type Image,
} from './overlaybd-client.ts';
import { timed, verdict, type BenchRow } from './rows.ts';

const ORIGIN_BYTES_PER_SECOND = 100e6;
const AGENTS = { full: [1, 2, 16], smoke: [1, 2] };
const BLOB_BYTES = { full: 64 * MIB, smoke: 4 * MIB };
const RANDOM_READS = { full: 300, smoke: 30 };
const LAYERS_BYTES = {
  full: [16 * MIB, 24 * MIB, 40 * MIB],
  smoke: [MIB, MIB, MIB],
};

/** Goal of the project, for one host and for two. */
const RATIO_MAX = 1.3;
const RATIO_AGENTS_MAX = 2;

const HEADERS = { authorization: 'Bearer of-the-client' };

const clock = new SystemClock();

/** One kind of reading: of what, and how one client does it. */
interface Pattern {
  readonly what: string;
  readonly make: (origin: FakeRegistry, size: 'full' | 'smoke') => Image;
  readonly read: typeof replay;
  /** Whether the reads go in order, so that no more requests than the client's are needed. */
  readonly inOrder: boolean;
}

const download = (origin: FakeRegistry, size: 'full' | 'smoke'): Image => ({
  layers: [origin.add(BLOB_BYTES[size])],
  reads: downloadReads(BLOB_BYTES[size]),
});

const PATTERNS: readonly Pattern[] = [
  { what: '256 KiB, 4 at a time', make: download, read: replay, inOrder: true },
  {
    what: '256 KiB, one by one',
    make: download,
    read: (base, urls, image) => replay(base, urls, image, 1),
    inOrder: true,
  },
  { what: 'one GET', make: download, read: getWhole, inOrder: false },
  {
    what: 'small reads',
    make: (origin, size) => makeImage(origin, LAYERS_BYTES[size], RANDOM_READS[size]),
    read: replay,
    inOrder: false,
  },
];

/**
 * Blobs that only the clients' own token opens, next to the same straight from the registry: the
 * root has no credentials.
 */
export async function benchOwnWay(options: { smoke: boolean }): Promise<BenchRow[]> {
  const size = options.smoke ? 'smoke' : 'full';
  const dir = await mkdtemp(join(tmpdir(), 'xylem-bench-'));
  const origin = new FakeRegistry({ throttle: { clock, bytesPerSecond: ORIGIN_BYTES_PER_SECOND } });
  origin.behaviours.set('', (request, response) => {
    if (request.headers.authorization === HEADERS.authorization) return false;
    response.writeHead(401, { 'www-authenticate': 'Basic realm="bench"' }).end();
    return true;
  });
  await origin.start();
  const counts = AGENTS[size];
  const children = Math.max(...counts);
  const registry = origin.address;
  const cluster = new AgentCluster({ dir, roots: 1, children, registry, devices: false });
  try {
    await cluster.start();
    // The code of agents that have just started is interpreted.
    for (const pattern of PATTERNS) await through(origin, cluster.children, { pattern, size });
    const rows: BenchRow[] = [];
    for (const pattern of PATTERNS) {
      for (const count of counts) {
        const hosts = cluster.children.slice(0, count);
        rows.push(...(await benchPattern(origin, hosts, { pattern, size })));
      }
    }
    return rows;
  } finally {
    await cluster.stop();
    await origin.stop();
    await rm(dir, { recursive: true, force: true });
  }
}

type Case = { readonly pattern: Pattern; readonly size: 'full' | 'smoke' };

async function benchPattern(
  origin: FakeRegistry,
  hosts: readonly ClusterHost[],
  { pattern, size }: Case,
): Promise<BenchRow[]> {
  const own = await through(origin, hosts, { pattern, size });
  const direct = await measure(
    origin,
    hosts.map(() => ''),
    { pattern, size },
  );
  const ratio = own.seconds / direct.seconds;
  const hasGoal = hosts.length <= RATIO_AGENTS_MAX;
  const goals = [
    ...(hasGoal ? [verdict(ratio <= RATIO_MAX, `at most ${RATIO_MAX} x`)] : []),
    ...(pattern.inOrder
      ? [verdict(own.requests <= direct.requests, "no more requests than direct's")]
      : []),
  ];
  const figures =
    `direct ${direct.seconds.toFixed(2)} s, ${ratio.toFixed(2)} x; ` +
    `requests ${own.requests} to ${direct.requests}; ` +
    `origin bytes ${own.amplification.toFixed(2)} to ${direct.amplification.toFixed(2)} x; ` +
    `load ${(loadavg()[0] ?? 0).toFixed(1)}`;
  return [
    {
      bench: 'own-way',
      what: `${pattern.what}, ${hosts.length} agents`,
      value: own.seconds,
      unit: 's',
      note: [figures, ...goals].join('; '),
    },
  ];
}

function through(origin: FakeRegistry, hosts: readonly ClusterHost[], each: Case) {
  const bases = hosts.map((host) => `${host.local}/`);
  return measure(origin, bases, each);
}

async function measure(origin: FakeRegistry, bases: readonly string[], { pattern, size }: Case) {
  const image = pattern.make(origin, size);
  const urls = image.layers.map((layer) => origin.url('bench', layer));
  const before = { bytes: origin.sentBytes, requests: origin.asked.length };
  const seconds = await timed(() =>
    Promise.all(bases.map((base) => pattern.read(base, urls, { ...image, headers: HEADERS }))),
  );
  const touchedBytes = distinctBytes(image) * bases.length;
  return {
    seconds,
    requests: origin.asked.length - before.requests,
    amplification: (origin.sentBytes - before.bytes) / touchedBytes,
  };
}

async function getWhole(...[base, [url], image]: Parameters<typeof replay>): Promise<void> {
  const { layers, headers = {} } = image;
  const { bytes } = defined(layers[0], 'a layer');
  const agent = new Agent({ keepAlive: true });
  const part = { bytes, offset: 0, length: bytes.length, whole: true, headers };
  await fetchPart(agent, `${base}${url}`, part);
  agent.destroy();
}
