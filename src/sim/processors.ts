import { assert } from '../util/assert.ts';

/** A container's CPU burst. */
interface Burst<J> {
  readonly job: J;
  /** Virtual time at which the burst is done. */
  readonly finish: number;
  readonly order: number;
}

/**
 * The vCPUs of a host, shared by its containers and its agent.
 *
 * Containers share by processor sharing: with `n` of them runnable on `c` vCPUs each runs at min(1,
 * c / n). The agent's network thread uses less than its fair share, so the scheduler runs it at
 * once on a whole CPU when it wakes. The runnable containers lose that CPU time, all alike, and
 * only when no vCPU is idle. The agent runs its own jobs one after the other.
 *
 * Virtual time: `#virtual` counts the milliseconds of CPU of a container that has been runnable
 * since the beginning. A burst of `b` that begins at virtual time `v` is done at `v + b`. The
 * agent's use sets virtual time back by each container's loss. So a change of the number of
 * runnable containers costs nothing per container.
 */
export class Processors<J> {
  readonly #count: number;
  readonly #bursts: Burst<J>[] = [];
  #virtual = 0;
  #atMs = 0;
  #order = 0;
  #agentFreeMs = 0;

  constructor(init: { count: number }) {
    assert(init.count >= 1, `a host of ${init.count} vCPUs`);
    this.#count = init.count;
  }

  /** Time at which the agent's thread has done all its jobs so far. */
  get agentFreeMs(): number {
    return this.#agentFreeMs;
  }

  /** Number of containers that run. */
  get runnable(): number {
    return this.#bursts.length;
  }

  /** Gives the agent's thread a job; returns the time at which the job is done. */
  runAgent(nowMs: number, costMs: number): number {
    this.charge(nowMs, costMs);
    this.#agentFreeMs = Math.max(nowMs, this.#agentFreeMs) + costMs;
    return this.#agentFreeMs;
  }

  /** Charges CPU time of a thread other than the agent's and the containers'. */
  charge(nowMs: number, costMs: number): void {
    this.#advance(nowMs);
    const lost = this.#rate(this.#count) - this.#rate(this.#count - 1);
    this.#virtual -= costMs * lost;
  }

  /** The agent's thread does nothing before this time. */
  stopAgent(untilMs: number): void {
    this.#agentFreeMs = Math.max(this.#agentFreeMs, untilMs);
  }

  /** A container runs for `cpuMs` of CPU. */
  start(nowMs: number, job: J, cpuMs: number): void {
    this.#advance(nowMs);
    const burst = { job, finish: this.#virtual + cpuMs, order: this.#order++ };
    let at = this.#bursts.length;
    // Sorted, the next to finish last: a host has few containers.
    while (at > 0 && before(this.#bursts[at - 1]!, burst)) at--;
    this.#bursts.splice(at, 0, burst);
  }

  /** Takes out a burst that is done by now; undefined when there is none. */
  takeDone(nowMs: number): J | undefined {
    this.#advance(nowMs);
    const next = this.#bursts[this.#bursts.length - 1];
    // Rounding: with less than a picosecond of CPU left, a burst counts as done.
    if (next === undefined || next.finish > this.#virtual + 1e-9) return undefined;
    this.#bursts.pop();
    return next.job;
  }

  /** Time at which the next burst is done if nothing changes; undefined when none runs. */
  get nextDoneMs(): number | undefined {
    const next = this.#bursts[this.#bursts.length - 1];
    if (next === undefined) return undefined;
    return this.#atMs + Math.max(0, next.finish - this.#virtual) / this.#rate(this.#count);
  }

  /** Ends all bursts: the host went down. */
  clear(nowMs: number): void {
    this.#advance(nowMs);
    this.#bursts.length = 0;
    this.#agentFreeMs = nowMs;
  }

  #rate(count: number): number {
    const runnable = this.#bursts.length;
    return runnable === 0 ? 1 : Math.min(1, count / runnable);
  }

  #advance(nowMs: number): void {
    if (nowMs <= this.#atMs) return;
    if (this.#bursts.length > 0) {
      this.#virtual += (nowMs - this.#atMs) * this.#rate(this.#count);
    }
    this.#atMs = nowMs;
  }
}

function before(a: Burst<unknown>, b: Burst<unknown>): boolean {
  return a.finish < b.finish || (a.finish === b.finish && a.order < b.order);
}
