import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import type { BenchRow } from './rows.ts';

const run = promisify(execFile);

/** What is measured of a device. */
export interface Case {
  readonly what: string;
  readonly unit: 'reads/s' | 'MB/s';
  readonly options: readonly string[];
  readonly hasGoal: boolean;
}

const RANDOM = ['--rw=randread', '--bs=4k'];
/** Random and sequential reads. */
export const CASES: readonly Case[] = [
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

/** What fio measured, and the CPU time that the busiest thread of this process took. */
export interface Measured {
  readonly value: number;
  readonly threadUs: number;
}

/** The row of one measurement. */
export function rowOf(
  { what, unit }: Case,
  how: string,
  { value, threadUs }: Measured,
): BenchRow & { readonly note: string } {
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

/** What fio says of a job's reads. */
interface FioRead {
  readonly iops: number;
  readonly bw_bytes: number;
  readonly total_ios: number;
}

/** Runs fio with direct I/O: for five seconds, or for that number of bytes. */
export async function fio(
  one: Case,
  path: string,
  length: { readonly bytes: number } | 'seconds',
): Promise<Measured> {
  const until =
    length === 'seconds' ? ['--runtime=5', '--time_based'] : [`--io_size=${length.bytes}`];
  const before = threadTimes();
  const { stdout } = await run('fio', [
    '--name=xylem',
    '--readonly',
    `--filename=${path}`,
    '--ioengine=libaio',
    '--direct=1',
    '--output-format=json',
    ...until,
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
