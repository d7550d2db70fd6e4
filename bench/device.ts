import { execFile } from 'node:child_process';
import { accessSync, closeSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { memoryDisk } from '../src/device/disk.ts';
import { FuseServer } from '../src/device/fuse/fuse-server.ts';
import { deviceMetrics } from '../src/device/metrics.ts';
import { requireMounted, takeTarget } from '../src/device/mount/mount-checks.ts';
import { runInHelper } from '../src/device/mount/mount-process.ts';
import { silentLogger } from '../src/runtime/logger.ts';
import { silentMetrics } from '../src/runtime/metrics.ts';
import { SystemClock } from '../src/runtime/node/clock.ts';
import { MIB } from '../src/util/bytes.ts';
import type { BenchRow } from './rows.ts';

const run = promisify(execFile);

interface Case {
  readonly what: string;
  readonly unit: 'reads/s' | 'MB/s';
  readonly options: readonly string[];
}

const RANDOM = ['--rw=randread', '--bs=4k'];
const CASES: readonly Case[] = [
  { what: 'random 4 KiB, depth 1', unit: 'reads/s', options: [...RANDOM, '--iodepth=1'] },
  { what: 'random 4 KiB, depth 32', unit: 'reads/s', options: [...RANDOM, '--iodepth=32'] },
  { what: 'sequential 1 MiB', unit: 'MB/s', options: ['--rw=read', '--bs=1M', '--iodepth=4'] },
];

/**
 * Measures fio with direct I/O on the FUSE file and on the loop device over it, with the image in
 * memory. Needs root, /dev/fuse, fio and mke2fs.
 */
export async function benchDevice(options: { smoke: boolean }): Promise<BenchRow[]> {
  if (!canRun()) {
    process.stderr.write('device: skipped: needs root, /dev/fuse, fio and mke2fs\n');
    return [];
  }
  const folder = mkdtempSync(join(tmpdir(), 'xylem-bench-'));
  try {
    return await measure(folder, options.smoke);
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

async function measure(folder: string, smoke: boolean): Promise<BenchRow[]> {
  const file = join(folder, 'ext4');
  await run('/usr/sbin/mke2fs', ['-q', '-F', '-t', 'ext4', file, smoke ? '16M' : '512M']);
  const [fuseDir, target] = [join(folder, 'fuse'), join(folder, 'mnt')];
  mkdirSync(fuseDir);
  const { fd: targetFd } = takeTarget(target, [folder]);
  const clock = new SystemClock();
  const metrics = deviceMetrics(silentMetrics);
  const disk = memoryDisk(await readFile(file));
  const server = new FuseServer({ disk, clock, logger: silentLogger, metrics }, { path: fuseDir });
  server.mount();
  const places = { fuseDir, target };
  const timeoutMs = 60_000;
  try {
    const startMs = clock.nowMs();
    const limit = { timeoutMs, targetFd };
    const mounted = await runInHelper({ clock }, { do: 'mount', ...places }, limit);
    const mountMs = clock.nowMs() - startMs;
    const device = requireMounted(mounted, target);
    const row = { bench: 'device', what: 'loop device and ext4 mount', value: mountMs, unit: 'ms' };
    const rows: BenchRow[] = [row];
    for (const one of CASES) rows.push(await fio(one, `${fuseDir}/image`, smoke));
    for (const one of CASES) rows.push(await fio(one, device, smoke));
    return rows;
  } finally {
    await runInHelper({ clock }, { do: 'unmount', ...places, force: true }, { timeoutMs });
    closeSync(targetFd);
    await server.ended;
  }
}

async function fio(one: Case, path: string, smoke: boolean): Promise<BenchRow> {
  const length = smoke ? [`--io_size=${4 * MIB}`] : ['--runtime=5', '--time_based'];
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
  const [job] = (JSON.parse(stdout) as { jobs: { read: { iops: number; bw_bytes: number } }[] })
    .jobs;
  const read = job?.read ?? { iops: 0, bw_bytes: 0 };
  const value = one.unit === 'reads/s' ? read.iops : read.bw_bytes / 1e6;
  const where = path.startsWith('/dev/') ? 'loop' : 'file';
  return { bench: 'device', what: `${one.what}, ${where}`, value, unit: one.unit };
}
