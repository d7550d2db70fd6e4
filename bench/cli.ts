import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { MIB } from '../src/util/bytes.ts';

const CLI = fileURLToPath(new URL('../bin/xylem.js', import.meta.url));

/** Interval between looks at the memory of a process. */
const SAMPLE_MS = 50;

/** What a command of `xylem` took and printed. */
export interface CommandRun<T> {
  readonly seconds: number;
  /** The most that was resident (VmHWM): its own pages, and those of files. */
  readonly peakMib: number;
  /** CPU of all its threads. */
  readonly cpuSeconds: number;
  readonly printed: T;
}

/**
 * Runs a command with `--json`, and with `last` after it, in a process of its own. Rejects when it
 * fails.
 */
export async function runXylem<T>(
  args: readonly string[],
  last: readonly string[] = [],
): Promise<CommandRun<T>> {
  const startMs = performance.now();
  const child = spawn(process.execPath, [CLI, ...args, '--json', ...last], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [peakMib, cpuSeconds] = [0, 0];
  const sampling = setInterval(() => {
    peakMib = peakOf(child.pid) ?? peakMib;
    cpuSeconds = cpuOf(child.pid) ?? cpuSeconds;
  }, SAMPLE_MS);
  const texts = { out: '', error: '' };
  child.stdout.on('data', (piece) => (texts.out += String(piece)));
  child.stderr.on('data', (piece) => (texts.error += String(piece)));
  const [code] = (await once(child, 'close')) as [number | null];
  clearInterval(sampling);
  if (code !== 0) {
    throw new Error(`xylem ${args.join(' ')} ended with ${code}: ${texts.error}${texts.out}`);
  }
  const seconds = (performance.now() - startMs) / 1000;
  return { seconds, peakMib, cpuSeconds, printed: JSON.parse(texts.out) as T };
}

function peakOf(pid: number | undefined): number | undefined {
  const kib = /^VmHWM:\s+([0-9]+) kB$/m.exec(procFile(pid, 'status'))?.[1];
  return kib === undefined ? undefined : (Number(kib) * 1024) / MIB;
}

/** CPU seconds of a process since its start; undefined when it has ended. */
export function cpuOf(pid: number | undefined): number | undefined {
  const stat = procFile(pid, 'stat');
  // utime and stime, in ticks of 10 ms (proc_pid_stat(5)).
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return stat === '' ? undefined : (Number(fields[11]) + Number(fields[12])) / 100;
}

/** Empty when the process has ended. */
function procFile(pid: number | undefined, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'utf8');
  } catch {
    return '';
  }
}
