import type { Clock } from '../../runtime/clock.ts';
import { DeviceError } from '../errors.ts';
import {
  INHERITED_VARIABLE,
  REMEMBERED_CHARS_MAX,
  type FromKeeper,
  type ToKeeper,
} from './messages.ts';

/**
 * Longest wait for the keeper's answer, in milliseconds: it makes two system calls, but the machine
 * may swap.
 */
const ANSWER_TIMEOUT_MS = 10_000;

/** Descriptors that outlive the process that opened them. */
export interface DescriptorKeeper {
  /** What an earlier process left, by name. Each is taken over or forgotten once. */
  readonly inherited: ReadonlyMap<string, number>;
  /** Resolves when the descriptor survives this process. Rejects with DeviceError. */
  keep(name: string, fd: number): Promise<void>;
  /** The descriptor need not survive any more. */
  forget(name: string): void;
}

/** For a process without a keeper: what it opens ends with it. */
export const NO_KEEPER: DescriptorKeeper = {
  inherited: new Map(),
  keep: () => Promise.resolve(),
  forget: () => {},
};

/**
 * The kept process's side of a keeper (src/device/keeper/keeper.ts).
 *
 * Life: `ofThisProcess()` once -> `keep()`, `forget()` -> `ready()` once.
 */
export class KeptDescriptors implements DescriptorKeeper {
  readonly inherited: ReadonlyMap<string, number>;
  readonly #clock: Clock;
  readonly #waiting = new Map<string, (error: string | undefined) => void>();
  readonly #onYield: () => void;
  #waits = 0;

  /** `onYield`: a new process is about to take over, and this one has to end. */
  private constructor(
    components: { clock: Clock },
    init: { inherited: ReadonlyMap<string, number>; onYield: () => void },
  ) {
    this.#clock = components.clock;
    this.inherited = init.inherited;
    this.#onYield = init.onYield;
    process.on('message', (message: FromKeeper) => this.#take(message));
    // The channel alone keeps no process alive.
    process.channel?.unref();
  }

  /** The keeper of this process; undefined when it has none. */
  static ofThisProcess(
    components: { clock: Clock },
    init: { onYield: () => void },
  ): KeptDescriptors | undefined {
    const text = process.env[INHERITED_VARIABLE];
    if (text === undefined || process.send === undefined) return undefined;
    const inherited = new Map(Object.entries(JSON.parse(text) as Record<string, number>));
    return new KeptDescriptors(components, { ...init, inherited });
  }

  async keep(name: string, fd: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<string | undefined>();
    this.#waiting.set(name, resolve);
    const timer = this.#clock.setTimer(ANSWER_TIMEOUT_MS, () => resolve('it did not answer'));
    this.#wait(1);
    this.#say({ say: 'keep', name, fd });
    const error = await promise;
    this.#wait(-1);
    timer.cancel();
    this.#waiting.delete(name);
    if (error === undefined) return;
    throw new DeviceError(
      `the keeper of this process cannot hold the descriptor of ${name} (${error}); ` +
        'it needs Linux 5.6 or later, and CAP_SYS_PTRACE in a container',
      { code: 'failed', step: 'pidfd_getfd' },
    );
  }

  forget(name: string): void {
    this.#say({ say: 'forget', name });
  }

  /**
   * Gives the next process a text, or none when it is empty. Resolves when the keeper has it, as
   * far as this process can tell.
   */
  remember(text: string): Promise<void> {
    return new Promise((resolve) => {
      if (!process.connected || text.length > REMEMBERED_CHARS_MAX) return resolve();
      const message: ToKeeper = { say: 'remember', text };
      this.#wait(1);
      process.send?.(message, () => {
        this.#wait(-1);
        resolve();
      });
    });
  }

  /** What was inherited is in use again: the keeper waits no longer for this process. */
  ready(): void {
    this.#say({ say: 'ready' });
  }

  /** While something is waited for, the channel keeps the process alive: nothing else may. */
  #wait(change: 1 | -1): void {
    this.#waits += change;
    if (this.#waits > 0) process.channel?.ref();
    else process.channel?.unref();
  }

  #say(message: ToKeeper): void {
    if (process.connected) process.send?.(message);
  }

  #take(message: FromKeeper): void {
    if (message.say === 'kept') this.#waiting.get(message.name)?.(message.error);
    else this.#onYield();
  }
}
