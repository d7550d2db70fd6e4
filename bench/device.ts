import { execFile } from 'node:child_process';
import { once } from 'node:events';
import {
  accessSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { FuseServer } from '../src/device/fuse/fuse-server.ts';
import { ImageDisk } from '../src/device/image-disk.ts';
import { mount, MS_NODEV, MS_NOSUID, MS_RDONLY } from '../src/device/linux.ts';
import { deviceMetrics } from '../src/device/metrics.ts';
import { requireMounted, takeTarget } from '../src/device/mount/mount-checks.ts';
import { runInHelper } from '../src/device/mount/mount-process.ts';
import { heldImage } from '../src/device/store-reader/held-image.ts';
import { StoreShares } from '../src/device/store-reader/store-shares.ts';
import { silentLogger } from '../src/runtime/logger.ts';
import { silentMetrics } from '../src/runtime/metrics.ts';
import { SystemClock } from '../src/runtime/node/clock.ts';
import { NodeCodec } from '../src/runtime/node/codec.ts';
import type { BlobReader } from '../src/transfer/contracts/blob-reader.ts';
import { MIB } from '../src/util/bytes.ts';
import { withEndings } from '../test/kit/endings.ts';
import type { AtEnd } from '../test/kit/temp-folder.ts';
import { makeBenchImage, type BenchImage } from './device-image.ts';
import { verdict, type BenchRow } from './rows.ts';

const run = promisify(execFile);

const clock = new SystemClock();
const metrics = deviceMetrics(silentMetrics);
const TIMEOUT_MS = 60_000;

/** Blocks that need the fewest bytes (docs/IMAGES.md, "Which blocks"). */
const ZSTD_BLOCKS = { blockSizeBytes: 16 * 1024, algorithm: 'zstd' } as const;

/** How many times slower a warm device may be than the least that FUSE takes. */
const TIMES_FLOOR_MAX = 2;

interface Case {
  readonly what: string;
  readonly unit: 'reads/s' | 'MB/s';
  readonly options: readonly string[];
  readonly hasGoal: boolean;
}

const RANDOM = ['--rw=randread', '--bs=4k'];
const CASES: readonly Case[] = [
  {
    what: 'random 4 KiB, depth 1',
    unit: 'reads/s',
    options: [...RANDOM, '--iodepth=1'],
    hasGoal: true,
  },
  {
    what: 'random 4 KiB, depth 32',
    unit: 'reads/s',
    options: [...RANDOM, '--iodepth=32'],
    hasGoal: true,
  },
  {
    what: 'sequential 1 MiB',
    unit: 'MB/s',
    options: ['--rw=read', '--bs=1M', '--iodepth=4'],
    hasGoal: false,
  },
];

/** A device that is mounted until the end. */
interface Served {
  readonly name: string;
  /** The FUSE file, and the loop device over it. */
  readonly places: readonly { readonly at: 'file' | 'loop'; readonly path: string }[];
}

/**
 * Measures fio with direct I/O on the FUSE file and on the loop device over it. Needs root,
 * /dev/fuse, fio and mke2fs.
 */
export async function benchDevice(options: { smoke: boolean }): Promise<BenchRow[]> {
  if (!canRun()) {
    process.stderr.write('device: skipped: needs root, /dev/fuse, fio and mke2fs\n');
    return [];
  }
  const folder = mkdtempSync(join(tmpdir(), 'xylem-bench-'));
  try {
    return await withEndings((atEnd) => measure(folder, options.smoke, atEnd));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function canRun(): boolean {
  try {
    for (const path of ['/dev/fuse', '/usr/bin/fio', '/usr/sbin/mke2fs']) accessSync(path);
    return process.getuid?.() === 0;
  } catch {
    return false;
  }
}

async function measure(folder: string, smoke: boolean, atEnd: AtEnd): Promise<BenchRow[]> {
  const image = await makeBenchImage(join(folder, 'lz4'), smoke ? 16 : 512);
  const other = await makeBenchImage(join(folder, 'zstd'), smoke ? 16 : 128, ZSTD_BLOCKS);
  const make = (name: string, start: (path: string) => Promise<Started>): Promise<Served> =>
    serve(join(folder, name), start, atEnd);
  const floor = await make('floor', (path) => startFloor(path, image.bytes));
  const startMs = clock.nowMs();
  const { memory, fetched, fullStore, emptyStore } = image;
  const store = await make('store', (path) => startImage(path, image, fetched, fullStore));
  const mountMs = clock.nowMs() - startMs;
  const zstd = await make('store-zstd', (path) =>
    startImage(path, other, other.fetched, other.fullStore),
  );
  const loop = await make('loop', (path) => startImage(path, image, memory));
  const cold = await make('cold', (path) => startImage(path, image, fetched, emptyStore));
  const rows: BenchRow[] = [
    { bench: 'device', what: 'open, FUSE, loop and ext4 mount', value: mountMs, unit: 'ms' },
  ];
  for (const one of CASES) {
    for (const at of ['loop', 'file'] as const) {
      const least = await fio(one, floor, at, smoke);
      rows.push(rowOf(one, `${at}, floor`, least));
      const ours = await fio(one, store, at, smoke);
      const times = least.value / ours.value;
      const isMet = times <= TIMES_FLOOR_MAX;
      const goal = `${times.toFixed(2)} x the floor, ${TIMES_FLOOR_MAX} x at most`;
      const row = rowOf(one, `${at}, store`, ours);
      const hasGoal = one.hasGoal && at === 'loop';
      rows.push(hasGoal ? { ...row, note: `${row.note}; ${verdict(isMet, goal)}` } : row);
    }
    rows.push(rowOf(one, 'loop, store, ZSTD', await fio(one, zstd, 'loop', smoke)));
    rows.push(rowOf(one, 'loop, event loop', await fio(one, loop, 'loop', smoke)));
    rows.push(rowOf(one, 'loop, cold', await fio(one, cold, 'loop', smoke)));
  }
  return rows;
}

/** What fio measured, and the CPU time that the busiest thread of this process took. */
interface Measured {
  readonly value: number;
  readonly threadUs: number;
}

function rowOf({ what, unit }: Case, how: string, { value, threadUs }: Measured) {
  const us = threadUs < 100 ? threadUs.toFixed(1) : Math.round(threadUs);
  const note = `${us} us of its thread's CPU a read`;
  return { bench: 'device', what: `${what}, ${how}`, value, unit, note };
}

/** CPU time that each thread of this process has used, in microseconds. */
function threadTimes(): ReadonlyMap<string, number> {
  const times = readdirSync('/proc/self/task').map((thread): [string, number] => {
    const [runNs = ''] = readFileSync(`/proc/self/task/${thread}/schedstat`, 'utf8').split(' ');
    return [thread, Number(runNs) / 1000];
  });
  return new Map(times);
}

interface Started {
  /** Resolves after the filesystem is unmounted. */
  readonly ended: Promise<unknown>;
}

/** Serves a file over FUSE, and mounts it over a loop device. */
async function serve(
  folder: string,
  start: (path: string) => Promise<Started>,
  atEnd: AtEnd,
): Promise<Served> {
  mkdirSync(folder);
  const [fuseDir, target] = [join(folder, 'fuse'), join(folder, 'mnt')];
  mkdirSync(fuseDir);
  const { fd: targetFd } = takeTarget(target, [folder]);
  const { ended } = await start(fuseDir);
  const places = { fuseDir, target };
  atEnd(async () => {
    const request = { do: 'unmount', ...places, force: true } as const;
    await runInHelper({ clock }, request, { timeoutMs: TIMEOUT_MS });
    closeSync(targetFd);
    await ended;
  });
  const limit = { timeoutMs: TIMEOUT_MS, targetFd };
  const mounted = await runInHelper({ clock }, { do: 'mount', ...places }, limit);
  const device = requireMounted(mounted, target);
  const file = { at: 'file', path: `${fuseDir}/image` } as const;
  return { name: folder, places: [file, { at: 'loop', path: device }] };
}

/** Serves the image from a store's files, or through the event loop alone. */
async function startImage(
  path: string,
  { manifest }: BenchImage,
  reader: BlobReader,
  storeDir?: string,
): Promise<Started> {
  const disk = await ImageDisk.open({ reader, codec: new NodeCodec() }, manifest);
  const store = { untrustedSigners: [], digestsOf: () => undefined };
  const server = new FuseServer({ disk, clock, logger: silentLogger, metrics }, { path });
  server.mount();
  if (storeDir !== undefined) {
    const image = heldImage({ ...store, dir: storeDir }, disk);
    server.hold({ image, shares: new StoreShares({ clock, readBytes: metrics.readBytes }) });
  }
  return server;
}

/** Serves bytes in memory with as little work as FUSE allows. */
async function startFloor(path: string, bytes: SharedArrayBuffer): Promise<Started> {
  const fd = openSync('/dev/fuse', 'r+');
  const data = `fd=${fd},rootmode=40000,user_id=0,group_id=0`;
  const flags = MS_RDONLY | MS_NOSUID | MS_NODEV;
  const failure = mount({ source: 'floor', target: path }, 'fuse.floor', { flags, data });
  if (failure !== undefined) throw new Error(`cannot mount FUSE: ${failure.name}`);
  const worker = new Worker(new URL('./device-floor-worker.ts', import.meta.url), {
    workerData: { fd, bytes: new Uint8Array(bytes) },
    execArgv: ['--no-warnings'],
  });
  return { ended: once(worker, 'exit').then(() => closeSync(fd)) };
}

/** What fio says of a job's reads. */
interface FioRead {
  readonly iops: number;
  readonly bw_bytes: number;
  readonly total_ios: number;
}

async function fio(
  one: Case,
  { places }: Served,
  at: 'file' | 'loop',
  smoke: boolean,
): Promise<Measured> {
  const path = places.find((place) => place.at === at)?.path ?? '';
  const length = smoke ? [`--io_size=${4 * MIB}`] : ['--runtime=5', '--time_based'];
  const before = threadTimes();
  const { stdout } = await run('fio', [
    '--name=xylem',
    '--readonly',
    `--filename=${path}`,
    '--ioengine=libaio',
    '--direct=1',
    '--output-format=json',
    ...length,
    ...one.options,
  ]);
  const used = [...threadTimes()].map(([thread, us]) => us - (before.get(thread) ?? us));
  const { jobs } = JSON.parse(stdout) as { jobs: { read: FioRead }[] };
  const read = jobs[0]?.read ?? { iops: 0, bw_bytes: 0, total_ios: 1 };
  return {
    value: one.unit === 'reads/s' ? read.iops : read.bw_bytes / 1e6,
    threadUs: Math.max(...used) / Math.max(1, read.total_ios),
  };
}
