import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import { get } from 'node:http';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { AtEnd } from '../test/kit/temp-folder.ts';

const run = promisify(execFile);

/** Longest waits, in milliseconds: for an answer, and for a mount to be free. */
const ANSWER_MS_MAX = 300_000;
const FREE_MS_MAX = 10_000;

/** Interval between looks. */
const POLL_MS = 20;

/** Gives the rest of its arguments to a program whose root folder is the first. */
const IN_ROOT = `
  mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && mount -t tmpfs tmpfs "$0/tmp" &&
  exec chroot "$0" "$@"`;

/** The environment of programs in images. */
const ENV = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/tmp' };

/** A program in an image, and how it answers. */
export interface Program {
  readonly command: readonly string[];
  /** Where it answers over HTTP; undefined: it prints its answer. */
  readonly url: string | undefined;
  /** How the answer begins. */
  readonly answer: string;
}

/** Mounts a folder, writable by an overlay that goes at the end; returns where. */
export async function mountWritable(lower: string, folder: string, atEnd: AtEnd): Promise<string> {
  const [upper, work, target] = ['upper', 'work', 'root'].map((name) => join(folder, name));
  for (const each of [upper, work, target]) await mkdir(each!, { recursive: true });
  const options = `lowerdir=${lower},upperdir=${upper},workdir=${work}`;
  await run('mount', ['-t', 'overlay', 'overlay', '-o', options, target!]);
  atEnd(() => unmount(target!));
  return target!;
}

/** Unmounts a folder. */
export async function unmount(target: string): Promise<void> {
  await whenFree(() => run('umount', [target]));
}

/**
 * Unmounts something once nobody uses it. The system takes down the mounts of a program a moment
 * after its end.
 */
export async function whenFree(unmountIt: () => Promise<unknown>): Promise<void> {
  const deadlineMs = performance.now() + FREE_MS_MAX;
  for (;;) {
    try {
      await unmountIt();
      return;
    } catch (error) {
      if (performance.now() > deadlineMs) throw error;
      await sleep(POLL_MS);
    }
  }
}

/**
 * Runs a program with this root folder and processes of its own until its first answer; then ends
 * it. `enter` starts it in another network namespace.
 */
export async function firstAnswer(
  root: string,
  program: Program,
  enter: readonly string[],
): Promise<void> {
  const apart = ['unshare', '--mount', '--pid', '--fork', '--kill-child'];
  const all = [...enter, ...apart, 'sh', '-c', IN_ROOT, root, ...program.command];
  const [command = '', ...args] = all;
  const child = spawn(command, args, { env: ENV, stdio: ['ignore', 'pipe', 'pipe'] });
  const closed = once(child, 'close');
  const texts = { out: '', error: '' };
  child.stderr.on('data', (piece) => (texts.error += String(piece)));
  child.stdout.on('data', (piece) => (texts.out += String(piece)));
  const deadlineMs = performance.now() + ANSWER_MS_MAX;
  try {
    for (;;) {
      const { url, answer } = program;
      const text = url === undefined ? texts.out : await ask(url);
      if (text.startsWith(answer)) return;
      const hasEnded = child.exitCode !== null || child.signalCode !== null;
      if (hasEnded || performance.now() > deadlineMs || text.length >= answer.length) {
        const said = `${text}${texts.out}${texts.error}`.slice(-2000);
        throw new Error(`${program.command.join(' ')} did not answer ${answer}: ${said}`);
      }
      await sleep(POLL_MS);
    }
  } finally {
    child.kill('SIGKILL');
    await closed;
  }
}

/** The body of an answer; empty when nobody listens. */
async function ask(url: string): Promise<string> {
  const request = get(url, { agent: false });
  try {
    const [response] = await once(request, 'response');
    return (await buffer(response)).toString('latin1');
  } catch {
    return '';
  }
}
