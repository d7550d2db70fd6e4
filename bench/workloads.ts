import { glob, mkdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { askAgent } from '../src/agent/admin/admin-client.ts';
import type { ConversionResult } from '../src/convert/convert-image.ts';
import { AgentCluster, type ClusterHost } from '../src/demo/agent-cluster.ts';
import { defined } from '../src/util/assert.ts';
import { Containerd } from '../test/kit/containerd.ts';
import { makeDebianImages } from '../test/kit/debian-image.ts';
import { chainOf, type LayerName } from '../test/kit/debian-layers.ts';
import { debianFault } from '../test/kit/debian-packages.ts';
import { startDockerRegistry } from '../test/kit/docker-registry.ts';
import { withEndings } from '../test/kit/endings.ts';
import { makeNetwork, type Network } from '../test/kit/namespaces.ts';
import { needs } from '../test/kit/requires.ts';
import { tempFolder, type AtEnd } from '../test/kit/temp-folder.ts';
import { runXylem } from './cli.ts';
import { firstAnswer, mountWritable, unmount, whenFree, type Program } from './container.ts';
import { timed, type BenchOptions, type BenchRow } from './rows.ts';

const BENCH = 'workloads';

/** What comes to each host, all together. */
const LINK_BITS_PER_SECOND = 100_000_000;

/** Port of programs that answer over HTTP, in the namespace of their host. */
const PORT = 8080;

/** A program, and the image that it runs in. */
interface Workload {
  readonly name: string;
  /** The top layer of the image. */
  readonly layer: LayerName;
  readonly command: readonly string[];
  readonly overHttp?: boolean;
  readonly answer: string;
  /** Seconds of the published example: original, first start, second start. */
  readonly published?: readonly [number, number, number];
}

const NGINX = `events {} http { access_log off; server { listen ${PORT}; root /usr/share/doc; } }`;

const PDF_SERVER = `
  const { execFile } = require('node:child_process');
  const { readFileSync, writeFileSync } = require('node:fs');
  writeFileSync('/tmp/page.html', '<h1>Page</h1>' + '<p>Some words of it.</p>'.repeat(200));
  const args = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking',
    '--disable-component-update', '--no-first-run', '--user-data-dir=/tmp/profile',
    '--print-to-pdf=/tmp/page.pdf', 'file:///tmp/page.html'];
  require('node:http').createServer((request, response) => {
    execFile('/usr/lib/chromium/chromium', args, (error, out, text) =>
      response.end(error ? String(error) + text : readFileSync('/tmp/page.pdf')));
  }).listen(${PORT});`;

const WORKLOADS: readonly Workload[] = [
  { name: 'shell', layer: 'base', command: ['bash', '-c', 'echo ready'], answer: 'ready' },
  {
    name: 'web server',
    layer: 'web',
    command: [
      'bash',
      '-c',
      `echo '${NGINX}' > /tmp/conf; exec nginx -c /tmp/conf -g 'daemon off;'`,
    ],
    overHttp: true,
    answer: '<html>',
  },
  {
    name: 'python',
    layer: 'python',
    command: ['python3', '-c', 'import json, http.client; print("ready")'],
    answer: 'ready',
  },
  {
    name: 'numpy, scipy',
    layer: 'numpy',
    command: [
      'python3',
      '-c',
      'import numpy, scipy.linalg, scipy.optimize, scipy.stats; print("ready")',
    ],
    answer: 'ready',
  },
  {
    name: 'model',
    layer: 'model',
    command: [
      'python3',
      '-c',
      'import numpy; print("ready", numpy.fromfile("/srv/model.bin", "<f4", 45000000).mean())',
    ],
    answer: 'ready',
  },
  {
    name: 'node',
    layer: 'node',
    command: [
      'node',
      '-e',
      `require('node:http').createServer((_, answer) => answer.end('ready')).listen(${PORT})`,
    ],
    overHttp: true,
    answer: 'ready',
  },
  {
    name: 'page to PDF',
    layer: 'chromium',
    command: ['node', '-e', PDF_SERVER],
    overHttp: true,
    answer: '%PDF',
    published: [66.5, 15.2, 4.3],
  },
];

const SMOKE = 'python';

/** How the blocks of an image are compressed. */
interface Shape {
  /** In names of rows and of tags; empty: as `xylem convert` does it when nothing is said. */
  readonly name: string;
  readonly compression: string;
  readonly blockSize: string;
}

const USUAL: Shape = { name: '', compression: 'lz4', blockSize: '4KiB' };

/** The fewest bytes, but for one that has hardly less. */
const SMALL = shapeOf('zstd', '16KiB');

const SHAPES: readonly Shape[] = [
  USUAL,
  ...['16KiB', '32KiB'].map((blockSize) => shapeOf('lz4', blockSize)),
  ...[shapeOf('zstd', '4KiB'), SMALL, shapeOf('zstd', '32KiB')],
];

function shapeOf(compression: string, blockSize: string): Shape {
  return { name: `${compression}-${blockSize}`, compression, blockSize };
}

/** What the benchmark needs of its host. */
export const WORKLOAD_NEEDS = [
  needs.root,
  needs.fuse,
  ...['docker-registry', 'containerd', 'ctr', 'mke2fs', 'ip', 'tc', 'unshare'].map(needs.program),
  debianFault,
];

/** One run of the benchmark. */
interface Bench {
  readonly network: Network;
  /** `host:port` of the registry, beyond the links of the hosts. */
  readonly registry: string;
}

/** Where a host is, and how it is entered. */
type Place = Network['places'][number];

/**
 * Starts programs in images of Debian packages, on a host with a link of 100 Mbit/s: with
 * containerd, which pulls and unpacks the original, and twice with an agent, which mounts the block
 * image that `xylem convert` made. Every agent is new to its image. Needs root, FUSE and apt.
 */
export async function benchWorkloads(options: BenchOptions): Promise<BenchRow[]> {
  const fault = WORKLOAD_NEEDS.map((need) => need()).find(Boolean);
  if (fault !== undefined) {
    process.stderr.write(`workloads: skipped: ${fault}\n`);
    return [];
  }
  const { smoke, only = '', shapes = false } = options;
  const chosen = WORKLOADS.filter(({ name }) =>
    smoke ? name === SMOKE : name.toLowerCase().includes(only.toLowerCase()),
  );
  return withEndings(async (atEnd) => {
    const layout = tempFolder(atEnd);
    const wanted = Object.fromEntries(chosen.map(({ layer }) => [layer, chainOf(layer)]));
    const { images } = await makeDebianImages(layout, wanted);
    const network = makeNetwork(2, 2, { bitsPerSecond: LINK_BITS_PER_SECOND, atEnd });
    const registry = await startDockerRegistry({ host: network.registry }, atEnd);
    const rows: BenchRow[] = [];
    const bench = { network, registry };
    for (const workload of chosen) {
      const { layer, name } = workload;
      process.stderr.write(`workloads: ${name}\n`);
      const original = `${registry}/original:${layer}`;
      await runXylem(['push', '--insecure', `oci:${layout}:${layer}`, `docker://${original}`]);
      const gzipBytes = sumOf(defined(images[layer], 'the image was made'));
      const pulled = await withEndings((end) => startOriginal(bench, workload, original, end));
      rows.push(
        { bench: BENCH, what: `${name}, image with gzip`, value: gzipBytes / 1e6, unit: 'MB' },
        startRow(workload, 'original', pulled, 'pulled and unpacked'),
      );
      for (const shape of smoke ? [USUAL] : shapes ? SHAPES : [USUAL, SMALL]) {
        rows.push(...(await rowsOfBlocks(bench, workload, { original, shape })));
      }
    }
    return rows;
  });
}

/** Converts the image, and starts it from blocks: twice, and once with a trace. */
async function rowsOfBlocks(
  bench: Bench,
  workload: Workload,
  { original, shape }: { readonly original: string; readonly shape: Shape },
): Promise<readonly BenchRow[]> {
  const { layer } = workload;
  const { name, compression, blockSize } = shape;
  const tag = name === '' ? layer : `${layer}-${name}`;
  const [block, traced] = [`${bench.registry}/block:${tag}`, `${bench.registry}/block:${tag}-t`];
  const how = ['--compression', compression, '--block-size', blockSize, '--insecure'];
  const places = [original, block].map((image) => `docker://${image}`);
  const { printed } = await runXylem<ConversionResult>(['convert', ...how, ...places]);
  const [blocks] = printed.platforms;
  const blockBytes = sumOf(defined(blocks, 'an image has a platform').layers);
  const plain = await withEndings((end) => startBlocks(bench, workload, block, end));
  const { command, overHttp } = workload;
  const url = `http://127.0.0.1:${PORT}/`;
  const until = overHttp === true ? ['--until-http', url, '--timeout', '300'] : [];
  const at = [`docker://${block}`, '--push', `docker://${traced}`, '--runtime', 'chroot'];
  const recorded = await runXylem<Recorded>(
    ['trace', 'record', '--insecure', ...until, ...at],
    ['--', ...command],
  );
  const withTrace = await withEndings((end) => startBlocks(bench, workload, traced, end));
  const { readBytes } = recorded.printed;
  return blockRows(workload, { shape, blockBytes, ...plain, withTrace, readBytes });
}

/** What `trace record --json` prints, of which this reads a part. */
interface Recorded {
  readonly readBytes: number;
}

/** Seconds until the first answer, and until the image could be used. */
interface Start {
  readonly seconds: number;
  readonly readySeconds: number;
}

/** A start from a block device, and the bytes that the kernel read of it. */
interface MountedStart extends Start {
  readonly deviceBytes: number;
}

async function startOriginal(
  { network }: Bench,
  workload: Workload,
  image: string,
  atEnd: AtEnd,
): Promise<Start> {
  const place = hostOf(network);
  const { enter } = place;
  const containerd = await Containerd.start(tempFolder(atEnd), {
    ...{ enter, snapshotter: 'overlayfs', atEnd },
  });
  const root = tempFolder(atEnd);
  return start(workload, place, async () => {
    await containerd.pull(image, ['--plain-http']);
    await containerd.mount(image, root);
    atEnd(() => unmount(root));
    return root;
  });
}

async function startBlocks(
  { network, registry }: Bench,
  workload: Workload,
  image: string,
  atEnd: AtEnd,
): Promise<{
  readonly first: MountedStart;
  readonly second: MountedStart;
  readonly touchedBytes: number;
}> {
  const cluster = new AgentCluster({
    dir: tempFolder(atEnd),
    ...{ roots: 1, children: 1, registry, devices: true, places: network.places },
  });
  atEnd(() => cluster.stop());
  await cluster.start();
  const child = defined(cluster.children[0], 'there is a child');
  const first = await startMounted(workload, { child, image, network });
  const touchedBytes = await fetchedBytes(cluster, child);
  const second = await startMounted(workload, { child, image, network });
  return { first, second, touchedBytes };
}

/** Mounts the image, starts the program, and unmounts. */
function startMounted(
  workload: Workload,
  { child, image, network }: { child: ClusterHost; image: string; network: Network },
): Promise<MountedStart> {
  return withEndings(async (atEnd) => {
    const agent = { admin: child.process.socket };
    const folder = tempFolder(atEnd);
    const dir = child.mountDir;
    await mkdir(join(dir, '..'), { recursive: true });
    const before = await bytesReadOfLoops();
    let device = '';
    const started = await start(workload, hostOf(network), async () => {
      const mounted = await askAgent(agent, 'mount', { image: `docker://${image}`, dir });
      device = basename(mounted.device);
      atEnd(() => whenFree(() => askAgent(agent, 'unmount', { dir })));
      return mountWritable(dir, folder, atEnd);
    });
    const after = await bytesReadOfLoops();
    const deviceBytes = (after.get(device) ?? 0) - (before.get(device) ?? 0);
    return { ...started, deviceBytes };
  });
}

/** Bytes read of each loop device since the system has it, for whatever file. */
async function bytesReadOfLoops(): Promise<ReadonlyMap<string, number>> {
  const bytes = new Map<string, number>();
  for await (const device of glob('loop*', { cwd: '/sys/block' })) {
    const fields = (await readFile(`/sys/block/${device}/stat`, 'utf8')).trim().split(/ +/);
    bytes.set(device, 512 * Number(fields[2]));
  }
  return bytes;
}

async function start(
  { command, overHttp, answer }: Workload,
  { address, enter }: Place,
  makeRoot: () => Promise<string>,
): Promise<Start> {
  const url = overHttp === true ? `http://${address}:${PORT}/` : undefined;
  const program: Program = { command, url, answer };
  let root = '';
  const readySeconds = await timed(async () => {
    root = await makeRoot();
  });
  const answerSeconds = await timed(() => firstAnswer(root, program, enter));
  return { seconds: readySeconds + answerSeconds, readySeconds };
}

/** The host that starts containers; the other one has the root agent. */
function hostOf({ places }: Network): Place {
  return defined(places[1], 'the network has two hosts');
}

/** Bytes that an agent had from elsewhere since its start. */
async function fetchedBytes(cluster: AgentCluster, host: ClusterHost): Promise<number> {
  const { bytesBySource } = await cluster.status(host);
  return Object.entries(bytesBySource)
    .filter(([source]) => source !== 'memory' && source !== 'disk')
    .reduce((sum, [, bytes]) => sum + bytes, 0);
}

function blockRows(
  workload: Workload,
  measured: {
    readonly shape: Shape;
    readonly blockBytes: number;
    readonly first: MountedStart;
    readonly second: MountedStart;
    readonly touchedBytes: number;
    readonly withTrace: { readonly first: MountedStart; readonly touchedBytes: number };
    readonly readBytes: number;
  },
): readonly BenchRow[] {
  const { shape, blockBytes, first, second, touchedBytes, withTrace, readBytes } = measured;
  const mb = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
  const percent = ((100 * touchedBytes) / blockBytes).toFixed(1);
  const share = `${percent} % of ${mb(blockBytes)} of blocks`;
  const note = `${share}; the kernel read ${mb(first.deviceBytes)} of the device`;
  const prefix = shape.name === '' ? '' : `${shape.name}, `;
  const what = `${workload.name}, ${prefix}touched`;
  const fetched = `mounted; ${mb(withTrace.touchedBytes)} fetched, trace of ${mb(readBytes)}`;
  return [
    { bench: BENCH, what, value: touchedBytes / 1e6, unit: 'MB', note },
    startRow(workload, `${prefix}first start`, first, 'mounted'),
    startRow(workload, `${prefix}first start with a trace`, withTrace.first, fetched),
    startRow(workload, `${prefix}second start`, second, 'mounted'),
  ];
}

function startRow(
  { name, published }: Workload,
  what: string,
  { seconds, readySeconds }: Start,
  done: string,
): BenchRow {
  const place = ['original', 'first start', 'second start'].indexOf(what);
  const example = published?.[place];
  const beside = example === undefined ? '' : `; published example ${example} s`;
  const note = `${done} after ${readySeconds.toFixed(2)} s${beside}`;
  return { bench: BENCH, what: `${name}, ${what}`, value: seconds, unit: 's', note };
}

function sumOf(blobs: readonly { readonly sizeBytes: number }[]): number {
  return blobs.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
}
