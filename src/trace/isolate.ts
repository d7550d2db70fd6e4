import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { constants } from 'node:os';
import { dropInheritedMounts } from '../device/mount/inherited-mounts.ts';
import { TraceError } from './errors.ts';

/** Marks the process inside. */
const INSIDE = 'XYLEM_INSIDE';

const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

type Signal = (typeof SIGNALS)[number];

/** Whether this process is the first one of namespaces that `runIsolated()` made. */
export function isIsolated(): boolean {
  return process.pid === 1 && process.env[INSIDE] === '1';
}

/**
 * Runs this program again with the same arguments, as the first process of namespaces of its own
 * for mounts and processes; gives its exit code. Whatever ends it, the kernel then removes what it
 * mounted and kills what it started. The first SIGINT or SIGTERM goes to it, a second one ends it.
 */
export async function runIsolated(): Promise<number> {
  if (process.getuid?.() !== 0) {
    throw notPermitted('recording mounts the image and runs a command of it, which takes root');
  }
  const args = ['--mount', '--propagation', 'private', '--pid', '--fork', '--kill-child'];
  const self = [process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  const child = spawn('unshare', [...args, '--mount-proc', ...self], {
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
    env: { ...process.env, [INSIDE]: '1' },
  });
  let signals = 0;
  const pass = (signal: Signal): void => {
    if (++signals === 1 && child.connected) child.send(signal);
    else child.kill('SIGKILL');
  };
  for (const signal of SIGNALS) process.on(signal, pass);
  try {
    const [code, signal] = (await once(child, 'exit')) as [number | null, Signal | null];
    return code ?? 128 + (signal === null ? 0 : constants.signals[signal]);
  } catch (cause) {
    throw notPermitted(`unshare, of util-linux, does not start: ${String(cause)}`);
  } finally {
    for (const signal of SIGNALS) process.removeListener(signal, pass);
  }
}

/**
 * Listens, in the process inside, for the signals and the end of the one that started it; and keeps
 * nobody from unmounting what was mounted before.
 */
export function followOutside(): void {
  dropInheritedMounts();
  process.on('message', (message: unknown) => {
    const signal = SIGNALS.find((name) => name === message);
    if (signal !== undefined) process.emit(signal);
  });
  process.once('disconnect', () => process.emit('SIGTERM'));
  process.channel?.unref();
}

/** Sends a signal to every process in the namespace but this first one. */
export function signalAll(signal: 'SIGTERM' | 'SIGKILL'): void {
  if (!isIsolated()) throw new Error('only the first process of a namespace may signal all');
  try {
    process.kill(-1, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

function notPermitted(why: string): TraceError {
  return new TraceError(`cannot record here: ${why}`, { code: 'not-permitted' });
}
