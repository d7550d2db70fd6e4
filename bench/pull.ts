import { execFile } from 'node:child_process';
import { createCipheriv } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { readFile, rename } from 'node:fs/promises';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { carryOut } from '../src/agent/commands/containerd-files.ts';
import { planMirror } from '../src/agent/commands/containerd-hosts.ts';
import { blobPath, prepareLayout } from '../src/convert/oci-layout.ts';
import { AgentCluster, type ClusterHost } from '../src/demo/agent-cluster.ts';
import { BLOCK_SIZE_BYTES } from '../src/image/block.ts';
import { MIB } from '../src/util/bytes.ts';
import { Containerd } from '../test/kit/containerd.ts';
import { startDockerRegistry } from '../test/kit/docker-registry.ts';
import { withEndings } from '../test/kit/endings.ts';
import { packLayer, putGzipImage, type GzipLayer } from '../test/kit/gzip-image.ts';
import { needs } from '../test/kit/requires.ts';
import { pushLayout } from '../test/kit/skopeo.ts';
import { END, header } from '../test/kit/tar-encoder.ts';
import { tempFolder, type AtEnd } from '../test/kit/temp-folder.ts';
import { cpuOf } from './cli.ts';
import { timed, verdict, type BenchOptions, type BenchRow } from './rows.ts';

const run = promisify(execFile);

const BENCH = 'pull';

/** Of the image: together 364 MiB, that is 381 MB, of the sizes that layers have. */
const LAYERS_MIB = { full: [30, 4, 96, 1, 180, 53], smoke: [9, 5, 1] };
const HOSTS = { full: [1, 2, 3], smoke: [1, 2] };

/** Goals of the project: bytes that a host takes, and blocks of one request of the registry. */
const RECEIVED_MAX = 1.02;
const REQUEST_BYTES_MIN = 2 * MIB;

/** For stores to write what waits, and between two looks whether they have. */
const SETTLE_MS_MAX = 30_000;
const SETTLE_MS = 500;

/** What the machine must have. */
export const PULL_NEEDS = [
  needs.root,
  ...['docker-registry', 'skopeo', 'containerd', 'ctr'].map(needs.program),
];

/** The image, in a registry that notes its requests. */
interface PulledImage {
  readonly registry: string;
  readonly accessLog: string;
  /** Each layer. */
  readonly layersBytes: readonly number[];
}

/** A client of images: how it pulls, straight or through the mirror of a host. */
interface Client {
  readonly name: string;
  /** Does what is to be done before the pull; returns the pull. */
  ready(
    image: PulledImage,
    mirror: string | undefined,
    atEnd: AtEnd,
  ): Promise<() => Promise<unknown>>;
}

const CLIENTS: readonly Client[] = [
  { name: 'skopeo', ready: readySkopeo },
  { name: 'containerd', ready: readyContainerd },
];

/**
 * An image that nobody has yet, pulled by real clients from a registry: by all hosts at once,
 * through the mirrors of their agents below one root, and straight.
 */
export function benchPull({ smoke, onRow }: BenchOptions): Promise<BenchRow[]> {
  const size = smoke ? 'smoke' : 'full';
  return withEndings(async (atEnd) => {
    const image = await makeImage(LAYERS_MIB[size], atEnd);
    const rows: BenchRow[] = [];
    for (const client of CLIENTS) {
      for (const hosts of HOSTS[size]) {
        const direct = await withEndings((ending) => pullStraight(client, image, hosts, ending));
        const found = await withEndings((ending) => pullThrough(client, image, hosts, ending));
        const row = rowOf(`${client.name}, ${hosts} hosts`, image, { ...found, direct });
        onRow?.(row);
        rows.push(row);
      }
    }
    return rows;
  });
}

interface Pulled {
  readonly seconds: number;
  /** Without a mirror. */
  readonly direct: number;
  readonly requests: number;
  readonly registryBytes: number;
  readonly hosts: readonly HostFigures[];
}

/** What a pull cost a host; the root comes first. */
interface HostFigures {
  readonly receivedBytes: number;
  readonly blocks: number;
  readonly unstored: number;
  readonly cpuSeconds: number;
}

function rowOf(what: string, image: PulledImage, pulled: Pulled): BenchRow {
  const bytes = image.layersBytes.reduce((sum, each) => sum + each, 0);
  const blocks = image.layersBytes.reduce(
    (sum, each) => sum + Math.ceil(each / BLOCK_SIZE_BYTES),
    0,
  );
  const { seconds, direct, requests, registryBytes, hosts } = pulled;
  const each = (figure: (host: HostFigures) => string): string => hosts.map(figure).join(' ');
  // Its config and manifest are a block or two more.
  const missing = hosts.map((host) => Math.max(0, blocks - host.blocks));
  const isReceived = hosts.every(({ receivedBytes }) => receivedBytes <= bytes * RECEIVED_MAX);
  const notes = [
    `direct ${direct.toFixed(2)} s: ${(seconds / direct).toFixed(2)} x`,
    `root and hosts received ${each((host) => (host.receivedBytes / bytes).toFixed(3))} x`,
    `lack ${missing.join(' ')} of ${blocks} blocks`,
    `unstored ${each((host) => String(host.unstored))}`,
    `registry ${requests} requests, ${(registryBytes / bytes).toFixed(3)} x`,
    `CPU ${each((host) => host.cpuSeconds.toFixed(1))} s`,
    `load ${(loadavg()[0] ?? 0).toFixed(1)}`,
    verdict(isReceived, `at most ${RECEIVED_MAX} x`),
    verdict(
      missing.every((count) => count === 0),
      'all in the stores',
    ),
    verdict(requests <= Math.ceil(bytes / REQUEST_BYTES_MIN), 'a request per 2 MiB'),
  ];
  return { bench: BENCH, what, value: seconds, unit: 's', note: notes.join('; ') };
}

async function pullStraight(
  client: Client,
  image: PulledImage,
  count: number,
  atEnd: AtEnd,
): Promise<number> {
  const ready = Array.from({ length: count }, () => client.ready(image, undefined, atEnd));
  const pulls = await Promise.all(ready);
  return timed(() => Promise.all(pulls.map((pull) => pull())));
}

async function pullThrough(
  client: Client,
  image: PulledImage,
  count: number,
  atEnd: AtEnd,
): Promise<Omit<Pulled, 'direct'>> {
  const dir = tempFolder(atEnd);
  const shape = { roots: 1, children: count, devices: false };
  const cluster = new AgentCluster({ dir, ...shape, registry: image.registry });
  atEnd(() => cluster.stop());
  await cluster.start();
  const ready = cluster.children.map(({ mirror }) => client.ready(image, mirror, atEnd));
  const pulls = await Promise.all(ready);
  const cpuBefore = cluster.hosts.map(({ process }) => cpuOf(process.pid) ?? 0);
  const before = await requestsOf(image);
  const seconds = await timed(() => Promise.all(pulls.map((pull) => pull())));
  const after = await requestsOf(image);
  await settled(cluster);
  const figures = cluster.hosts.map(async (host, i): Promise<HostFigures> => {
    const { store, bytesBySource } = await cluster.status(host);
    const { memory = 0, disk = 0, ...came } = bytesBySource;
    void [memory, disk];
    return {
      receivedBytes: Object.values(came).reduce((sum, bytes) => sum + bytes, 0),
      blocks: store.blockCount,
      unstored: await unstored(host),
      cpuSeconds: (cpuOf(host.process.pid) ?? 0) - (cpuBefore[i] ?? 0),
    };
  });
  return {
    seconds,
    requests: after.count - before.count,
    registryBytes: after.bytes - before.bytes,
    hosts: await Promise.all(figures),
  };
}

/** Resolves when the stores take no more blocks. */
async function settled(cluster: AgentCluster): Promise<void> {
  const count = async (): Promise<number> => {
    const all = await Promise.all(cluster.hosts.map((host) => cluster.status(host)));
    return all.reduce((sum, { store }) => sum + store.blockCount, 0);
  };
  let last = -1;
  for (let waitedMs = 0; waitedMs < SETTLE_MS_MAX; waitedMs += SETTLE_MS) {
    const now = await count();
    if (now === last) return;
    last = now;
    await sleep(SETTLE_MS);
  }
}

async function unstored(host: ClusterHost): Promise<number> {
  const text = await (await fetch(`${host.process.admin}/metrics`)).text();
  const counts = text.matchAll(/^xylem_block_unstored_total\{.*\} (\d+)$/gm);
  return Array.from(counts, ([, count]) => Number(count)).reduce((sum, each) => sum + each, 0);
}

/** Reads of blobs that the registry has answered, and the bytes of them. */
async function requestsOf({ accessLog }: PulledImage): Promise<{ count: number; bytes: number }> {
  const log = await readFile(accessLog, 'utf8');
  const reads = [...log.matchAll(/"GET \S+\/blobs\/\S+ \S+" 20[06] (\d+)/g)];
  return { count: reads.length, bytes: reads.reduce((sum, [, bytes]) => sum + Number(bytes), 0) };
}

async function makeImage(layersMib: readonly number[], atEnd: AtEnd): Promise<PulledImage> {
  const layout = join(tempFolder(atEnd), 'layout');
  await prepareLayout(layout);
  const layers: GzipLayer[] = [];
  for (const [i, mib] of layersMib.entries()) {
    const part = join(layout, 'blobs', 'part');
    const layer = await packLayer(randomTar(`file-${i}`, mib * MIB), part, { level: 1 });
    await rename(part, blobPath(layout, layer.digest));
    layers.push(layer);
  }
  await putGzipImage(layout, '1', layers);
  const accessLog = join(tempFolder(atEnd), 'access.log');
  const registry = await startDockerRegistry({ accessLog }, atEnd);
  await pushLayout(`${layout}:1`, `${registry}/team/app:1`);
  return { registry, accessLog, layersBytes: layers.map(({ sizeBytes }) => sizeBytes) };
}

/** One file that no compression makes smaller, other ones each time. */
async function* randomTar(path: string, size: number): AsyncGenerator<Uint8Array> {
  const random = createCipheriv(
    'aes-128-ctr',
    Buffer.from(`${process.pid}-${path}`.padEnd(16).slice(0, 16)),
    Buffer.alloc(16),
  );
  const zeros = Buffer.alloc(MIB);
  yield header({ path, size });
  for (let done = 0; done < size; done += MIB) yield random.update(zeros);
  yield END;
}

async function readySkopeo(
  { registry }: PulledImage,
  mirror: string | undefined,
  atEnd: AtEnd,
): Promise<() => Promise<unknown>> {
  const folder = tempFolder(atEnd);
  const file = join(folder, 'registries.conf');
  const through =
    mirror === undefined
      ? ''
      : `[[registry.mirror]]\nlocation = "${mirror.replace('http://', '')}"\ninsecure = true\n`;
  writeFileSync(file, `[[registry]]\nlocation = "${registry}"\ninsecure = true\n${through}`);
  const args = ['--insecure-policy', '--registries-conf', file, 'copy', '--quiet'];
  const to = `oci:${join(folder, 'out')}:1`;
  return () => run('skopeo', [...args, `docker://${registry}/team/app:1`, to]);
}

async function readyContainerd(
  { registry }: PulledImage,
  mirror: string | undefined,
  atEnd: AtEnd,
): Promise<() => Promise<unknown>> {
  const dir = tempFolder(atEnd);
  const server = `http://${registry}`;
  if (mirror === undefined) {
    mkdirSync(join(dir, registry));
    writeFileSync(join(dir, registry, 'hosts.toml'), `server = "${server}"\n`);
  } else {
    carryOut(planMirror({ dir, registry, mirror, server }));
  }
  const containerd = await Containerd.start(dir, { atEnd });
  return () => containerd.fetch(`${registry}/team/app:1`);
}
