import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { askAgent } from '../src/agent/admin/admin-client.ts';
import type { ConversionResult } from '../src/convert/convert-image.ts';
import type { AgentCluster, ClusterHost } from '../src/demo/agent-cluster.ts';
import { waitReady } from '../src/demo/processes.ts';
import { defined } from '../src/util/assert.ts';
import { Containerd } from '../test/kit/containerd.ts';
import { CriClient } from '../test/kit/cri-client.ts';
import { makeDebianImages } from '../test/kit/debian-image.ts';
import { chainOf, type LayerName } from '../test/kit/debian-layers.ts';
import { debianFault } from '../test/kit/debian-packages.ts';
import { startDeviceHost, type DeviceHost } from '../test/kit/device-host.ts';
import { startDockerRegistry } from '../test/kit/docker-registry.ts';
import { withEndings } from '../test/kit/endings.ts';
import { plainHostsDir } from '../test/kit/hosts-dir.ts';
import { needs } from '../test/kit/requires.ts';
import { tempFolder, type AtEnd } from '../test/kit/temp-folder.ts';
import { runXylem } from './cli.ts';
import { timed, verdict, type BenchRow } from './rows.ts';

const run = promisify(execFile);
const BENCH = 'containers';

const COMMAND = ['python3', '-c', 'import json, http.client; print("ready")'];

/** What this benchmark needs of its host. */
export const CONTAINER_NEEDS = [
  ...[needs.root, needs.fuse],
  ...['docker-registry', 'containerd', 'ctr-remote', 'runc', 'fio', 'mke2fs'].map(needs.program),
  debianFault,
];

/** An image with gzip, and as blocks. */
interface Images {
  readonly original: string;
  readonly block: string;
  /** Bytes of the blobs of the block image. */
  readonly blockBytes: number;
}

/**
 * Pulls an image of Debian packages and runs Python from it, with containerd and runc: the original
 * pulled and unpacked, and the block image on a device, with an agent that is new to it. Then what
 * readers of the device wait while its process, or the agent, is killed. Needs root, FUSE and apt.
 */
export async function benchContainers({ smoke }: { readonly smoke: boolean }): Promise<BenchRow[]> {
  const fault = CONTAINER_NEEDS.map((need) => need()).find(Boolean);
  if (fault !== undefined) {
    process.stderr.write(`containers: skipped: ${fault}\n`);
    return [];
  }
  return withEndings(async (atEnd) => {
    const registry = await startDockerRegistry({}, atEnd);
    const images = await makeImages(registry, smoke ? 'python' : 'numpy', atEnd);
    const plainSeconds = await withEndings((end) => startPlain(images.original, end));
    const criSeconds = await withEndings(async (end) =>
      pullByCri(images, await startHost(registry, end), end),
    );
    const host = await startHost(registry, atEnd);
    const started = await startBlocks(images, host);
    const stalls = await measureStalls(images, host);
    return [...startRows(images, { plainSeconds, criSeconds, ...started }), ...stalls];
  });
}

async function makeImages(registry: string, layer: LayerName, atEnd: AtEnd): Promise<Images> {
  const layout = tempFolder(atEnd);
  await makeDebianImages(layout, { [layer]: chainOf(layer) });
  const [original, block] = [`${registry}/original:1`, `${registry}/block:1`];
  await runXylem(['push', '--insecure', `oci:${layout}:${layer}`, `docker://${original}`]);
  const places = [original, block].map((image) => `docker://${image}`);
  const { printed } = await runXylem<ConversionResult>(['convert', '--insecure', ...places]);
  const { layers } = defined(printed.platforms[0], 'an image has a platform');
  const blockBytes = layers.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  return { original, block, blockBytes };
}

async function startPlain(image: string, atEnd: AtEnd): Promise<number> {
  const options = { snapshotter: 'overlayfs', atEnd } as const;
  const containerd = await Containerd.start(tempFolder(atEnd), options);
  return timed(async () => {
    await containerd.pull(image, ['--plain-http']);
    await answer(containerd, image, 'plain');
  });
}

/** A host with an agent that has never read anything, a device process, and a containerd. */
async function startHost(registry: string, atEnd: AtEnd): Promise<Host> {
  const made = await startDeviceHost(registry, atEnd);
  const containerd = await Containerd.start(plainHostsDir(registry, atEnd), {
    snapshotter: { socket: made.device.snapshotter },
    sandboxImage: `${registry}/original:1`,
    atEnd,
  });
  return { ...made, containerd };
}

async function pullByCri({ block }: Images, { containerd }: Host, atEnd: AtEnd): Promise<number> {
  const cri = new CriClient(containerd.socket);
  atEnd(() => cri.close());
  return timed(() => cri.pull(block));
}

interface Started {
  readonly plainSeconds: number;
  readonly criSeconds: number;
  readonly pullSeconds: number;
  readonly pullBytes: number;
  readonly coldSeconds: number;
  readonly warmSeconds: number;
  readonly touchedBytes: number;
}

interface Host extends DeviceHost {
  readonly containerd: Containerd;
}

async function startBlocks(
  { block }: Images,
  at: Host,
): Promise<Omit<Started, 'plainSeconds' | 'criSeconds'>> {
  const { cluster, host, containerd } = at;
  const pullSeconds = await timed(() => containerd.pullRemote(block));
  const pullBytes = await fetchedBytes(cluster, host);
  const runSeconds = await timed(() => answer(containerd, block, 'cold'));
  const touchedBytes = await fetchedBytes(cluster, host);
  const warmSeconds = await timed(() => answer(containerd, block, 'warm'));
  return {
    pullSeconds,
    pullBytes,
    coldSeconds: pullSeconds + runSeconds,
    warmSeconds,
    touchedBytes,
  };
}

async function answer(containerd: Containerd, image: string, name: string): Promise<void> {
  const said = await containerd.run(image, `xylem-bench-${process.pid}-${name}`, COMMAND);
  if (said.trim() !== 'ready') throw new Error(`the container said ${said}`);
}

/** Bytes that an agent had from elsewhere since its start. */
async function fetchedBytes(cluster: AgentCluster, host: ClusterHost): Promise<number> {
  const { bytesBySource } = await cluster.status(host);
  return Object.entries(bytesBySource)
    .filter(([source]) => source !== 'memory' && source !== 'disk')
    .reduce((sum, [, bytes]) => sum + bytes, 0);
}

/** Random reads of a file of the device for some seconds, and what is killed meanwhile. */
const READS = ['--readonly', '--direct=1', '--rw=randread', '--bs=4k', '--ioengine=psync'];
const READ_SECONDS = 6;
const KILL_AFTER_MS = 2_000;

async function measureStalls(
  { block }: Images,
  { cluster, host, containerd, device }: Host,
): Promise<readonly BenchRow[]> {
  await containerd.runDetached(block, `xylem-bench-${process.pid}-holder`, ['sleep', '1000']);
  const { devices } = await askAgent({ admin: device.socket }, 'devices');
  const file = join(defined(devices[0], 'the container has a device').dir, 'usr/bin/python3.11');
  await run('sh', ['-c', 'cat "$1" > /dev/null', 'sh', file]);
  const rows: BenchRow[] = [];
  const kills: readonly (readonly [string, () => Promise<void>])[] = [
    ['nothing is killed', async () => {}],
    ['the serving process is killed', () => device.killServing()],
    [
      'the agent is killed',
      async () => {
        host.process.signal('SIGKILL');
        await cluster.restart(host);
        await waitReady(host.process);
      },
    ],
  ];
  for (const [what, kill] of kills) {
    const args = ['--name=reads', `--filename=${file}`, ...READS, '--output-format=json'];
    const reading = run('fio', [...args, '--time_based', `--runtime=${READ_SECONDS}`]);
    await sleep(KILL_AFTER_MS);
    await kill();
    const { jobs } = JSON.parse((await reading).stdout) as FioResult;
    const { error, read } = defined(jobs[0], 'fio ran one job');
    const note = `${error === 0 ? 'no' : 'FAILED'} read failed, ${Math.round(read.iops)} reads/s`;
    const value = read.clat_ns.max / 1e9;
    rows.push({ bench: BENCH, what: `longest read while ${what}`, value, unit: 's', note });
  }
  return rows;
}

/** What fio prints, of which this reads a part. */
interface FioResult {
  readonly jobs: readonly {
    readonly error: number;
    readonly read: { readonly iops: number; readonly clat_ns: { readonly max: number } };
  }[];
}

function startRows(images: Images, started: Started): readonly BenchRow[] {
  const {
    plainSeconds,
    criSeconds,
    pullSeconds,
    pullBytes,
    coldSeconds,
    warmSeconds,
    touchedBytes,
  } = started;
  const mb = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
  const percent = ((100 * touchedBytes) / images.blockBytes).toFixed(1);
  const ratio = plainSeconds / coldSeconds;
  const row = (what: string, value: number, unit: string, note?: string): BenchRow => ({
    ...{ bench: BENCH, what, value, unit },
    ...(note !== undefined && { note }),
  });
  return [
    row('block image', images.blockBytes / 1e6, 'MB'),
    row('plain pull and first answer', plainSeconds, 's'),
    row(
      'pull of the block image, CRI',
      criSeconds * 1000,
      'ms',
      verdict(criSeconds < 0.5, 'below 500'),
    ),
    row(
      'pull of the block image, ctr-remote',
      pullSeconds * 1000,
      'ms',
      `${verdict(pullSeconds < 0.5, 'below 500')}; the agent fetched ${mb(pullBytes)}`,
    ),
    row(
      'cold: pull and first answer',
      coldSeconds,
      's',
      `${mb(touchedBytes)} touched, ${percent} %`,
    ),
    row('warm: first answer of another container', warmSeconds, 's'),
    row('plain over cold', ratio, 'x', verdict(ratio >= 5, 'at least 5')),
  ];
}
