import type { Random } from '../runtime/random.ts';
import { assert, defined } from '../util/assert.ts';
import { DECODE_MS_PER_BYTE } from './costs.ts';
import type { Processors } from './processors.ts';
import type { Trace } from './workload.ts';

/** Containers of a host start within this many milliseconds of each other. */
const START_SPREAD_MS = 20;

/** A container's CPU differs from the trace's by up to this share. */
const CPU_SPREAD = 0.02;

/** What a host does for its containers. */
export interface ContainerHost {
  /**
   * Reads the blocks of one read of the trace; the host then calls `readDone()` or `readFailed()`.
   */
  read(read: number, nowMs: number): void;
  /** A container has finished, or has died of a failed read. */
  finished(container: Container, nowMs: number): void;
  /** The number of running containers has changed. */
  rescheduled(nowMs: number): void;
}

/** A container that replays the trace. */
export interface Container {
  readonly number: number;
  /** Ratio of its CPU time to the trace's. */
  readonly factor: number;
  readonly startMs: number;
  /** Index of the next read of the trace. */
  next: number;
  failed: boolean;
}

/**
 * The containers of one host: bursts of CPU with reads between them.
 *
 *     set-up | read 0 | CPU | read 1 | CPU | ... | last read | end
 *
 * Data read through the device once stays in the host's page cache, decoded, for every container; a
 * container joins a read in flight. The first reader pays for the decoding. Reads that the page
 * cache answers cost no events: their CPU is one burst.
 */
export class Containers {
  readonly #trace: Trace;
  readonly #processors: Processors<Container>;
  readonly #host: ContainerHost;
  readonly #factors: readonly number[];
  readonly #delaysMs: readonly number[];
  /** Reads of the trace that the page cache answers. */
  readonly #cached: Uint8Array;
  readonly #waiting = new Map<number, Container[]>();
  #unfinished = 0;

  constructor(
    components: {
      trace: Trace;
      processors: Processors<Container>;
      host: ContainerHost;
      random: Random;
    },
    init: { count: number },
  ) {
    this.#trace = components.trace;
    this.#processors = components.processors;
    this.#host = components.host;
    const { random } = components;
    const factor = (): number => 1 + CPU_SPREAD * (2 * random.float() - 1);
    this.#factors = Array.from({ length: init.count }, factor);
    this.#delaysMs = Array.from({ length: init.count }, () => START_SPREAD_MS * random.float());
    this.#cached = new Uint8Array(components.trace.reads.length);
  }

  get unfinished(): number {
    return this.#unfinished;
  }

  /** Start of each container, in milliseconds after the start of the run. */
  get delaysMs(): readonly number[] {
    return this.#delaysMs;
  }

  /** Announces a run of all containers; each begins with `begin()`. */
  expect(): void {
    assert(this.#unfinished === 0, 'containers of an earlier run are still there');
    this.#unfinished = this.#factors.length;
  }

  begin(number: number, nowMs: number): void {
    const factor = defined(this.#factors[number], 'a container of this host');
    this.#run({ number, factor, startMs: nowMs, next: 0, failed: false }, 0, nowMs);
    this.#host.rescheduled(nowMs);
  }

  /** Continues the containers whose CPU bursts have finished. */
  onProcessors(nowMs: number): void {
    for (
      let container = this.#processors.takeDone(nowMs);
      container !== undefined;
      container = this.#processors.takeDone(nowMs)
    ) {
      this.#arrive(container, nowMs);
    }
    this.#host.rescheduled(nowMs);
  }

  /** A read is answered: the containers that wait for it go on. */
  readDone(read: number, nowMs: number): void {
    this.#cached[read] = 1;
    const { lengthBytes } = defined(this.#trace.reads[read], 'a read of the trace');
    let decodeMs = lengthBytes * DECODE_MS_PER_BYTE;
    for (const container of this.#take(read)) {
      container.next++;
      this.#run(container, decodeMs, nowMs);
      decodeMs = 0;
    }
    this.#host.rescheduled(nowMs);
  }

  /** A read has failed: the containers that wait for it die. */
  readFailed(read: number, nowMs: number): void {
    for (const container of this.#take(read)) {
      container.failed = true;
      this.#finish(container, nowMs);
    }
  }

  /** The host went down, and its page cache with it. */
  crash(): void {
    this.#cached.fill(0);
    this.#waiting.clear();
    this.#unfinished = 0;
  }

  #take(read: number): readonly Container[] {
    const waiting = this.#waiting.get(read) ?? [];
    this.#waiting.delete(read);
    return waiting;
  }

  /** Gives the container the CPU until its next read that misses the page cache. */
  #run(container: Container, extraMs: number, nowMs: number): void {
    const { reads, cpuAfterMs } = this.#trace;
    let cpuMs = 0;
    while (container.next < reads.length) {
      cpuMs += reads[container.next]!.cpuBeforeMs;
      if (this.#cached[container.next] === 0) break;
      container.next++;
    }
    if (container.next === reads.length) cpuMs += cpuAfterMs;
    this.#processors.start(nowMs, container, cpuMs * container.factor + extraMs);
  }

  #arrive(container: Container, nowMs: number): void {
    const { next } = container;
    if (next === this.#trace.reads.length) {
      this.#finish(container, nowMs);
      return;
    }
    if (this.#cached[next] === 1) {
      container.next++;
      this.#run(container, 0, nowMs);
      return;
    }
    const waiting = this.#waiting.get(next);
    if (waiting !== undefined) {
      waiting.push(container);
      return;
    }
    this.#waiting.set(next, [container]);
    this.#host.read(next, nowMs);
  }

  #finish(container: Container, nowMs: number): void {
    this.#unfinished--;
    this.#host.finished(container, nowMs);
  }
}
