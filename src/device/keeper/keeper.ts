import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync } from 'node:fs';
import type { Clock, Timer } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import { takeDescriptor } from '../linux.ts';
import {
  INHERITED_VARIABLE,
  REMEMBERED_CHARS_MAX,
  REMEMBERED_VARIABLE,
  type FromKeeper,
  type ToKeeper,
} from './messages.ts';

/** First descriptor number of what the kept process inherits: after stdio and Node's channel. */
const FIRST_INHERITED = 4;

/** Most descriptors held: one for each device of a host (256), and some sockets. */
const DESCRIPTORS_MAX = 512;

/** Waits before a start after processes that died young, in milliseconds; the last one repeats. */
const RESTART_WAITS_MS = [0, 100, 300, 1_000, 3_000];

/** A process that lived this long was no failed start, in milliseconds. */
const YOUNG_MS = 10_000;

/**
 * Longest time without a process that is ready, in milliseconds. Then the descriptors are closed,
 * and waiting reads of containers end with an error: nothing may hang on a process that cannot
 * start.
 */
const UNREADY_MS_MAX = 60_000;

/** Longest `yield` of a process, and longest stop, in milliseconds; then it is killed. */
const YIELD_MS_MAX = 5_000;
const STOP_MS_MAX = 25_000;

const CANNOT_START = 'cannot start the device process';

/** The program that is kept running. */
export interface KeptProgram {
  readonly path: string;
  readonly args: readonly string[];
}

/**
 * Keeps a process running, and holds its descriptors, so that a new process goes on with them when
 * it dies or is replaced by a newer version. Does nothing else, so that it has no reason to die.
 *
 * Life: constructed -> `run()`, which resolves with an exit code after `stop()`, or when the first
 * process fails to start. `replace()` at any time: starts the program anew.
 */
export class Keeper {
  readonly #logger: Logger;
  readonly #clock: Clock;
  readonly #program: KeptProgram;
  readonly #descriptors = new Map<string, number>();
  #child: ChildProcess | undefined;
  /** The process that is to go. */
  #replaced: ChildProcess | undefined;
  #stopping: Timer | undefined;
  #unready: Timer | undefined;
  #failures = 0;
  /** What the next process is told by an earlier one. */
  #remembered = '';
  #wasReady = false;

  constructor(components: { logger: Logger; clock: Clock }, init: { program: KeptProgram }) {
    this.#logger = components.logger;
    this.#clock = components.clock;
    this.#program = init.program;
  }

  /** Runs the program until `stop()`; the exit code of the last process. */
  async run(): Promise<number> {
    for (;;) {
      const startMs = this.#clock.nowMs();
      const { code, signal } = await this.#runOnce();
      const isReplaced = this.#child !== undefined && this.#child === this.#replaced;
      if (this.#stopping !== undefined) {
        this.#stopping.cancel();
        this.#closeAll();
        return code ?? 1;
      }
      // A wrong configuration is no reason to try again: nothing hangs on this process yet.
      if (!this.#wasReady && signal === null) return code ?? 1;
      if (isReplaced) {
        this.#logger.info({ devices: this.#descriptors.size }, 'starting the next device process');
        continue;
      }
      const isYoung = this.#clock.nowMs() - startMs < YOUNG_MS;
      this.#failures = isYoung ? this.#failures + 1 : 0;
      const waitMs = RESTART_WAITS_MS[Math.min(this.#failures, RESTART_WAITS_MS.length - 1)] ?? 0;
      this.#logger.warn(
        { code, signal, waitMs, devices: this.#descriptors.size },
        'the device process has ended: starting it again',
      );
      if (waitMs > 0) await this.#clock.sleep(waitMs);
      if (this.#stopping !== undefined) return 0;
    }
  }

  /** Starts the program anew, after the running process had time to end what it has in hand. */
  replace(): void {
    const child = this.#child;
    if (child === undefined) return;
    this.#logger.info({ pid: child.pid }, 'replacing the device process');
    this.#replaced = child;
    this.#tell(child, { say: 'yield' });
    const timer = this.#clock.setTimer(YIELD_MS_MAX, () => child.kill('SIGKILL'));
    child.once('exit', () => timer.cancel());
  }

  /** Stops the process for good, and kills it when that takes too long. */
  stop(): void {
    if (this.#stopping !== undefined) return void this.#child?.kill('SIGKILL');
    this.#stopping = this.#clock.setTimer(STOP_MS_MAX, () => this.#child?.kill('SIGKILL'));
    this.#child?.kill('SIGTERM');
  }

  #runOnce(): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
    const held = [...this.#descriptors];
    const inherited = Object.fromEntries(held.map(([name], i) => [name, FIRST_INHERITED + i]));
    this.#unready ??= this.#clock.setTimer(UNREADY_MS_MAX, () => this.#giveUp());
    let child: ChildProcess;
    try {
      child = spawn(this.#program.path, [...this.#program.args], {
        stdio: ['ignore', 'inherit', 'inherit', 'ipc', ...held.map(([, fd]) => fd)],
        env: {
          ...{ ...process.env, [INHERITED_VARIABLE]: JSON.stringify(inherited) },
          [REMEMBERED_VARIABLE]: this.#remembered,
        },
      });
    } catch (error) {
      // As without memory for another process: some errors are thrown, and others told.
      this.#logger.error({ error }, CANNOT_START);
      return Promise.resolve({ code: 1, signal: null });
    }
    this.#child = child;
    child.on('message', (message: ToKeeper) => this.#take(child, message));
    return new Promise((resolve) => {
      child.on('error', (error) => {
        this.#logger.error({ error }, CANNOT_START);
        if (child.pid === undefined) resolve({ code: 1, signal: null });
      });
      child.on('exit', (code, signal) => resolve({ code, signal }));
    });
  }

  #take(child: ChildProcess, message: ToKeeper): void {
    if (message.say === 'keep') return this.#keep(child, message);
    if (message.say === 'forget') return this.#forget(message.name);
    if (message.say === 'remember') {
      this.#remembered = message.text.slice(0, REMEMBERED_CHARS_MAX);
      return;
    }
    this.#wasReady = true;
    this.#unready?.cancel();
    this.#unready = undefined;
  }

  #keep(child: ChildProcess, { name, fd }: { name: string; fd: number }): void {
    const answer = (error?: string): void =>
      this.#tell(child, { say: 'kept', name, ...(error !== undefined && { error }) });
    if (this.#descriptors.size >= DESCRIPTORS_MAX) {
      return answer(`${DESCRIPTORS_MAX} descriptors are held, which is the limit`);
    }
    const taken = takeDescriptor(child.pid ?? 0, fd);
    if (typeof taken !== 'number') return answer(taken.name);
    this.#forget(name);
    this.#descriptors.set(name, taken);
    answer();
  }

  #forget(name: string): void {
    const fd = this.#descriptors.get(name);
    if (fd === undefined) return;
    this.#descriptors.delete(name);
    closeSync(fd);
  }

  #giveUp(): void {
    this.#logger.error(
      { afterMs: UNREADY_MS_MAX, devices: this.#descriptors.size },
      'the device process does not start: letting its devices go, so that their readers get errors',
    );
    this.#unready = undefined;
    this.#remembered = '';
    this.#closeAll();
  }

  #closeAll(): void {
    this.#unready?.cancel();
    for (const name of [...this.#descriptors.keys()]) this.#forget(name);
  }

  #tell(child: ChildProcess, message: FromKeeper): void {
    if (child.connected) child.send(message);
  }
}
