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
import { timed, type BenchRow } from './rows.ts';

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
export async function benchWorkloads(options: { smoke: boolean }): Promise<BenchRow[]> {
  const fault = WORKLOAD_NEEDS.map((need) => need()).find(Boolean);
  if (fault !== undefined) {
    process.stderr.write(`workloads: skipped: ${fault}\n`);
    return [];
  }
  const chosen = WORKLOADS.filter(({ name }) => !options.smoke || name === SMOKE);
  return withEndings(async (atEnd) => {
    const layout = tempFolder(atEnd);
    const wanted = Object.fromEntries(chosen.map(({ layer }) => [layer, chainOf(layer)]));
    const { images } = await makeDebianImages(layout, wanted);
    const network = makeNetwork(2, 2, { bitsPerSecond: LINK_BITS_PER_SECOND, atEnd });
    const registry = await startDockerRegistry({ host: network.registry }, atEnd);
    const rows: BenchRow[] = [];
    for (const workload of chosen) {
      const { layer } = workload;
      const [original, block] = [`${registry}/original:${layer}`, `${registry}/block:${layer}`];
      await runXylem(['push', '--insecure', `oci:${layout}:${layer}`, `docker://${original}`]);
      const places = [`docker://${original}`, `docker://${block}`];
      const { printed } = await runXylem<ConversionResult>(['convert', '--insecure', ...places]);
      const [blocks] = printed.platforms;
      const gzipBytes = sumOf(defined(images[layer], 'the image was made'));
      const blockBytes = sumOf(defined(blocks, 'an image has a platform').layers);
      process.stderr.write(`workloads: ${workload.name}\n`);
      const bench = { network, registry };
      rows.push(
        ...rowsOf(workload, {
          ...{ gzipBytes, blockBytes },
          original: await withEndings((end) => startOriginal(bench, workload, original, end)),
          ...(await withEndings((end) => startBlocks(bench, workload, block, end))),
        }),
      );
    }
    return rows;
  });
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

function rowsOf(
  { name, published }: Workload,
  measured: {
    readonly gzipBytes: number;
    readonly blockBytes: number;
    readonly original: Start;
    readonly first: MountedStart;
    readonly second: MountedStart;
    readonly touchedBytes: number;
  },
): BenchRow[] {
  const { gzipBytes, blockBytes, touchedBytes } = measured;
  const mb = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
  const percent = ((100 * touchedBytes) / blockBytes).toFixed(1);
  const share = `${percent} % of ${mb(blockBytes)} of blocks`;
  const rate = `${share}; the kernel read ${mb(measured.first.deviceBytes)} of the device`;
  const examples = published?.map((seconds) => `; published example ${seconds} s`) ?? [];
  const bench = 'workloads';
  const starts = [
    ['original', measured.original, 'pulled and unpacked'],
    ['first start', measured.first, 'mounted'],
    ['second start', measured.second, 'mounted'],
  ] as const;
  return [
    { bench, what: `${name}, image with gzip`, value: gzipBytes / 1e6, unit: 'MB' },
    { bench, what: `${name}, touched`, value: touchedBytes / 1e6, unit: 'MB', note: rate },
    ...starts.map(([what, { seconds, readySeconds }, done], i) => ({
      bench,
      what: `${name}, ${what}`,
      value: seconds,
      unit: 's',
      note: `${done} after ${readySeconds.toFixed(2)} s${examples[i] ?? ''}`,
    })),
  ];
}

function sumOf(blobs: readonly { readonly sizeBytes: number }[]): number {
  return blobs.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
}
