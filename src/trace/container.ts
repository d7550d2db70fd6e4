import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { constants as system } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { Clock } from '../runtime/clock.ts';
import { within } from '../runtime/deadline.ts';
import { moduleBeside } from '../runtime/node/module-beside.ts';
import { errorText } from '../util/errors.ts';
import { orAbort } from '../util/or-abort.ts';
import { TraceError } from './errors.ts';
import type { ImageProcess, ProcessUser } from './image-process.ts';
import { signalAll } from './isolate.ts';
import { rootOf, type RootRequest, type RootResult } from './root-steps.ts';
import { runcConfig } from './runc-config.ts';

/** By what a command is run: `chroot` gives it namespaces, but takes no rights from it. */
export type Runtime = 'runc' | 'chroot';

/** Longest wait for the steps that make the root: some dozen reads of the image. */
const HELPER_MS = 120_000;

/** What a command has to end by itself after a SIGTERM. Nothing that it wrote is kept. (tunable) */
const STOP_MS = 2_000;

/** Folder of runc's configuration, in the folder of the container. */
const BUNDLE = 'bundle';

/** The runtime that this host has. */
export function hostRuntime(): Runtime {
  return findProgram('runc') === undefined ? 'chroot' : 'runc';
}

/** Where a container has its files. */
export interface Place {
  /** An empty folder, of a file system that can be the upper one of an overlay. */
  readonly folder: string;
  /** No other container of this host has it. */
  readonly name: string;
}

/**
 * A command that runs on a mounted image, with an overlay for what it writes. Its output goes to
 * standard error. Life: `start()` -> `ended` -> `stop()`, which also ends a running command.
 */
export class Container {
  /** Resolves with the exit code, 128 and more after a signal; rejects when it did not start. */
  readonly ended: Promise<number>;
  readonly #clock: Clock;
  readonly #place: Place;
  readonly #runtime: Runtime;
  #isRunning = true;

  private constructor(
    { clock }: { readonly clock: Clock },
    init: { readonly child: ChildProcess; readonly place: Place; readonly runtime: Runtime },
  ) {
    this.#clock = clock;
    this.#place = init.place;
    this.#runtime = init.runtime;
    const { child, runtime } = init;
    this.ended = new Promise((resolve, reject) => {
      child.once('error', (cause) => {
        this.#isRunning = false;
        const why = `cannot start ${runtime}: ${errorText(cause)}`;
        reject(new TraceError(why, { code: 'failed', step: runtime }, { cause }));
      });
      child.once('exit', (code, signal) => {
        this.#isRunning = false;
        resolve(code ?? 128 + (signal === null ? 0 : system.signals[signal]));
      });
    });
    this.ended.catch(() => {});
  }

  /**
   * `lower`: where the image is mounted.
   */
  static async start(
    components: { readonly clock: Clock },
    init: {
      readonly lower: string;
      readonly place: Place;
      readonly runtime: Runtime;
      readonly process: ImageProcess;
    },
  ): Promise<Container> {
    const { lower, place, runtime, process: what } = init;
    const { folder } = place;
    const withDevices = runtime === 'chroot';
    const made = await help({ do: 'make', lower, folder, user: what.user, withDevices });
    if (made.kind === 'unknown-user') {
      const text = `the image is run as ${JSON.stringify(what.user)}, whom its /etc/passwd lacks`;
      throw new TraceError(text, { code: 'user', user: what.user });
    }
    if (made.kind !== 'made') throw failed(made);
    const { user } = made;
    const start = runtime === 'runc' ? startRunc : startChroot;
    const child = await start(place, what, user);
    return new Container(components, { child, place, runtime });
  }

  /** Ends the command, by SIGKILL if need be, with all that it started; removes its root. */
  async stop(): Promise<void> {
    if (this.#isRunning) {
      signalAll('SIGTERM');
      await within(this.#clock, STOP_MS, (signal) => orAbort(this.ended, signal)).catch(() => {});
    }
    signalAll('SIGKILL');
    await this.ended.catch(() => {});
    if (this.#runtime === 'runc') await forget(this.#place);
    const removed = await help({ do: 'remove', folder: this.#place.folder });
    if (removed.kind !== 'removed') throw failed(removed);
  }
}

async function startRunc(
  { folder, name }: Place,
  what: ImageProcess,
  user: ProcessUser,
): Promise<ChildProcess> {
  const bundle = join(folder, BUNDLE);
  await mkdir(bundle);
  const config = runcConfig(rootOf(folder), what, user);
  await writeFile(join(bundle, 'config.json'), JSON.stringify(config));
  const args = ['--root', join(folder, 'runc'), 'run', '--bundle', bundle, name];
  return spawn('runc', args, { stdio: ['inherit', 2, 2] });
}

async function startChroot(
  { folder }: Place,
  what: ImageProcess,
  { uid, gid, groups, home }: ProcessUser,
): Promise<ChildProcess> {
  // By their paths: the PATH of the image says where its own programs are.
  const [setpriv, unshare] = ['setpriv', 'unshare'].map(
    (name) => findProgram(name) ?? `/usr/bin/${name}`,
  );
  const listed = groups.length > 0 ? ['--groups', groups.join(',')] : ['--clear-groups'];
  const own = ['--pid', '--fork', '--kill-child', '--mount', '--ipc', '--uts', '--mount-proc'];
  const where = ['--root', rootOf(folder), '--wd', what.cwd];
  const who = ['--setgid', String(gid), '--setuid', String(uid)];
  const args = [...listed, String(unshare), ...own, ...where, ...who, '--', ...what.args];
  return spawn(String(setpriv), args, {
    stdio: ['inherit', 2, 2],
    env: environmentOf(what.env, home),
  });
}

function environmentOf(env: readonly string[], home: string): Record<string, string> {
  const pairs = env.map((each) => {
    const at = each.indexOf('=');
    return at < 0 ? [each, ''] : [each.slice(0, at), each.slice(at + 1)];
  });
  return { HOME: home, ...(Object.fromEntries(pairs) as Record<string, string>) };
}

/** Removes what runc remembers of a container that was killed, and its control groups. */
function forget({ folder, name }: Place): Promise<void> {
  const args = ['--root', join(folder, 'runc'), 'delete', '--force', name];
  return new Promise((resolve) => {
    // There is none, when the command ended by itself.
    execFile('runc', args, () => resolve());
  });
}

function help(request: RootRequest): Promise<RootResult> {
  const helper = fileURLToPath(moduleBeside(import.meta.url, 'root-helper'));
  const args = ['--no-warnings', helper, JSON.stringify(request)];
  const options = { timeout: HELPER_MS, killSignal: 'SIGKILL' } as const;
  return new Promise((resolve) => {
    execFile(process.execPath, args, options, (error, stdout, stderr) => {
      if (error === null) return resolve(JSON.parse(stdout) as RootResult);
      const why = `${errorText(error)} ${stderr}`.trim().slice(0, 500);
      resolve({ kind: 'failed', step: `${request.do} the root of the command`, why });
    });
  });
}

function failed(result: RootResult): TraceError {
  const { step, why } = result.kind === 'failed' ? result : { step: result.kind, why: '' };
  const text = `cannot run a command of the image: ${step}: ${why}`;
  return new TraceError(text, { code: 'failed', step });
}

function findProgram(name: string): string | undefined {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  return folders
    .filter((folder) => folder !== '')
    .map((folder) => join(folder, name))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}
