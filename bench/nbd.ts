import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { memoryDisk } from '../src/device/disk.ts';
import { deviceMetrics } from '../src/device/metrics.ts';
import { NbdServer } from '../src/device/nbd/nbd-server.ts';
import { silentLogger } from '../src/runtime/logger.ts';
import { silentMetrics } from '../src/runtime/metrics.ts';
import { SystemClock } from '../src/runtime/node/clock.ts';
import { MIB } from '../src/util/bytes.ts';
import { timed, type BenchRow } from './rows.ts';

const run = promisify(execFile);

/** A server, and the CPU time that it has used so far. */
interface Server {
  readonly name: string;
  readonly uri: string;
  readonly cpuMs: () => number;
}

/** Milliseconds of one tick in /proc/PID/stat. */
const TICK_MS = 10;

const PROGRAMS = ['/usr/bin/fio', '/usr/bin/nbdcopy', '/usr/bin/nbdkit'];

const RANDOM = ['--rw=randread', '--bs=4k'];
const CASES = [
  { what: 'random 4 KiB, depth 1', unit: 'reads/s', options: [...RANDOM, '--iodepth=1'] },
  { what: 'random 4 KiB, depth 32', unit: 'reads/s', options: [...RANDOM, '--iodepth=32'] },
  { what: 'sequential 1 MiB', unit: 'MB/s', options: ['--rw=read', '--bs=1M', '--iodepth=4'] },
] as const;

/**
 * Measures clients of the NBD server with the device in memory, and of nbdkit with the same bytes
 * in its own memory. Needs fio with its nbd engine, nbdcopy and nbdkit.
 */
export async function benchNbd(options: { smoke: boolean }): Promise<BenchRow[]> {
  try {
    PROGRAMS.forEach((path) => accessSync(path));
  } catch {
    process.stderr.write(`nbd: skipped: needs ${PROGRAMS.join(', ')}\n`);
    return [];
  }
  const folder = mkdtempSync(join(tmpdir(), 'xylem-bench-'));
  try {
    const file = join(folder, 'disk');
    const sizeBytes = (options.smoke ? 16 : 512) * MIB;
    const source = { file, sizeBytes };
    // Random bytes, so that no side keeps the device sparse.
    await run('dd', ['if=/dev/urandom', `of=${file}`, 'bs=1M', `count=${sizeBytes / MIB}`]);
    return [
      ...(await withXylem(folder, source, (server) => measure(server, options, sizeBytes))),
      ...(await withNbdkit(folder, source, (server) => measure(server, options, sizeBytes))),
    ];
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function withXylem(
  folder: string,
  { file }: { file: string },
  work: (server: Server) => Promise<BenchRow[]>,
): Promise<BenchRow[]> {
  const clock = new SystemClock();
  const metrics = deviceMetrics(silentMetrics);
  const server = new NbdServer({ clock, logger: silentLogger, metrics });
  server.export('', memoryDisk(await readFile(file)));
  const path = join(folder, 'xylem.sock');
  await server.listen(path);
  try {
    const cpuMs = (): number => {
      const { user, system } = process.cpuUsage();
      return (user + system) / 1000;
    };
    return await work({ name: 'xylem', uri: `nbd+unix:///?socket=${path}`, cpuMs });
  } finally {
    await server.close();
  }
}

async function withNbdkit(
  folder: string,
  { file, sizeBytes }: { file: string; sizeBytes: number },
  work: (server: Server) => Promise<BenchRow[]>,
): Promise<BenchRow[]> {
  const [path, pidFile] = [join(folder, 'nbdkit.sock'), join(folder, 'pid')];
  const options = ['--foreground', '-U', path, '-P', pidFile, 'memory', `${sizeBytes}`];
  const child = spawn('nbdkit', options, { stdio: 'ignore' });
  const ended = once(child, 'close');
  const clock = new SystemClock();
  try {
    while (!existsSync(pidFile)) await clock.sleep(10);
    const uri = `nbd+unix:///?socket=${path}`;
    await run('nbdcopy', [file, uri]);
    const cpuMs = (): number => {
      const fields = readFileSync(`/proc/${child.pid}/stat`, 'utf8').split(' ');
      return (Number(fields[13]) + Number(fields[14])) * TICK_MS; // utime and stime
    };
    return await work({ name: 'nbdkit', uri, cpuMs });
  } finally {
    child.kill();
    await ended;
  }
}

async function measure(
  { name, uri, cpuMs }: Server,
  { smoke }: { smoke: boolean },
  sizeBytes: number,
): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  for (const { what, unit, options } of CASES) {
    const startMs = cpuMs();
    const { iops, bw_bytes, total_ios } = await fio(uri, options, smoke);
    const cpuUs = ((cpuMs() - startMs) * 1000) / Math.max(1, total_ios);
    const value = unit === 'reads/s' ? iops : bw_bytes / 1e6;
    const note = `${cpuUs.toPrecision(3)} us of the server's CPU a read`;
    rows.push({ bench: 'nbd', what: `${what}, ${name}`, value, unit, note });
  }
  const seconds = await timed(() => run('nbdcopy', ['--no-extents', uri, 'null:']));
  const value = sizeBytes / 1e6 / seconds;
  return [...rows, { bench: 'nbd', what: `nbdcopy of the device, ${name}`, value, unit: 'MB/s' }];
}

interface FioRead {
  readonly iops: number;
  readonly bw_bytes: number;
  readonly total_ios: number;
}

async function fio(uri: string, options: readonly string[], smoke: boolean): Promise<FioRead> {
  const length = smoke ? [`--io_size=${4 * MIB}`] : ['--runtime=5', '--time_based'];
  const { stdout } = await run('fio', [
    '--name=xylem',
    '--ioengine=nbd',
    `--uri=${uri}`,
    '--output-format=json',
    ...length,
    ...options,
  ]);
  // The engine of Debian prints a line of its own before the JSON.
  const text = stdout.slice(stdout.indexOf('{'));
  const { jobs } = JSON.parse(text) as { jobs: { read: FioRead }[] };
  return jobs[0]?.read ?? { iops: 0, bw_bytes: 0, total_ios: 0 };
}
