import { once } from 'node:events';
import { accessSync, closeSync, mkdirSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
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
import { CASES, fio, rowOf } from './device-fio.ts';
import { makeBenchImage, type BenchImage } from './device-image.ts';
import { measureMounts } from './mounted-device.ts';
import { verdict, type BenchOptions, type BenchRow } from './rows.ts';

const clock = new SystemClock();
const metrics = deviceMetrics(silentMetrics);
const TIMEOUT_MS = 60_000;

/** Blocks that need the fewest bytes (docs/IMAGES.md, "Which blocks"). */
const ZSTD_BLOCKS = { blockSizeBytes: 16 * 1024, algorithm: 'zstd' } as const;

/** How many times slower a warm device may be than the least that FUSE takes. */
const TIMES_FLOOR_MAX = 2;

/** A device that is mounted until the end. */
interface Served {
  /** Of its files. */
  readonly dir: string;
  /** Paths of the FUSE file, and of the loop device over it. */
  readonly file: string;
  readonly loop: string;
}

/**
 * Measures fio with direct I/O on the FUSE file, on the loop device over it, and on a file of the
 * filesystem there. Needs root, /dev/fuse, fio and mke2fs.
 */
export async function benchDevice(options: BenchOptions): Promise<BenchRow[]> {
  if (!canRun()) {
    process.stderr.write('device: skipped: needs root, /dev/fuse, fio and mke2fs\n');
    return [];
  }
  const folder = mkdtempSync(join(tmpdir(), 'xylem-bench-'));
  try {
    return await withEndings((atEnd) => measure(folder, options, atEnd));
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

async function measure(
  folder: string,
  { smoke, onRow = () => {} }: BenchOptions,
  atEnd: AtEnd,
): Promise<BenchRow[]> {
  const length = smoke ? { bytes: 4 * MIB } : 'seconds';
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
  const rows: BenchRow[] = [];
  const add = (row: BenchRow): void => {
    rows.push(row);
    onRow(row);
  };
  add({ bench: 'device', what: 'open, FUSE, loop and ext4 mount', value: mountMs, unit: 'ms' });
  for (const one of CASES) {
    for (const at of ['loop', 'file'] as const) {
      const least = await fio(one, floor[at], length);
      add(rowOf(one, `${at}, floor`, least));
      const ours = await fio(one, store[at], length);
      const times = least.value / ours.value;
      const isMet = times <= TIMES_FLOOR_MAX;
      const goal = `${times.toFixed(2)} x the floor, ${TIMES_FLOOR_MAX} x at most`;
      const row = rowOf(one, `${at}, store`, ours);
      const hasGoal = one.hasGoal && at === 'loop';
      add(hasGoal ? { ...row, note: `${row.note}; ${verdict(isMet, goal)}` } : row);
    }
    add(rowOf(one, 'loop, store, ZSTD', await fio(one, zstd.loop, length)));
    add(rowOf(one, 'loop, event loop', await fio(one, loop.loop, length)));
    add(rowOf(one, 'loop, cold', await fio(one, cold.loop, length)));
  }
  const mounts = { image, dir: store.dir, folder: join(folder, 'mounts') };
  for await (const row of measureMounts(mounts, smoke, atEnd)) add(row);
  return rows;
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
  return { dir: target, file: `${fuseDir}/image`, loop: device };
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
