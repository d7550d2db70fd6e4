import { backoffMs } from '../../util/backoff.ts';
import { ExpiringMap } from '../../util/expiring-map.ts';
import { orAbort } from '../../util/or-abort.ts';
import { RegistryError } from '../errors.ts';
import {
  ATTEMPTS_MAX,
  comesBackMs,
  FaultMemory,
  isPassing,
  pauseAfter,
  pauseMsOf,
  RETRY_AFTER_MS_MAX,
  type OperationLimits,
  type RetryComponents,
} from './retry.ts';

/**
 * What failed with all attempts is left alone for this long; doubled for each further failure, up
 * to the maximum. (tunable)
 */
const REST_MS = 1_000;
const REST_MS_MAX = 8_000;

/** How long a failure is remembered after its pause. */
const KEPT_MS = 60_000;
const KEYS_MAX = 4096;

/** Something that failed last time. */
interface Gate {
  readonly error: RegistryError;
  /** In a row. */
  readonly failures: number;
  /** Of the clock. */
  readonly failedMs: number;
  readonly untilMs: number;
  /** The one attempt in flight after the pause. */
  trial: PromiseWithResolvers<void> | undefined;
}

/**
 * Tries of many requests for one thing, such as the blocks of a blob: after a passing failure all
 * of them wait, one tries for all, and they fail together. So a server that is overloaded gets one
 * request at a time, however many want something of it.
 */
export class SharedTries {
  readonly #parts: RetryComponents;
  readonly #gates: ExpiringMap<Gate>;

  constructor(components: RetryComponents) {
    this.#parts = components;
    this.#gates = new ExpiringMap(components, { entriesMax: KEYS_MAX });
  }

  /** As `withRetries()`, with the attempts of all that name the same key counted together. */
  async run<T>(key: string, limits: OperationLimits, attempt: () => Promise<T>): Promise<T> {
    const { clock } = this.#parts;
    const faults = new FaultMemory();
    for (let failures = 1; ; failures++) {
      const endTrial = await this.#turn(key, limits);
      const startedMs = clock.nowMs();
      try {
        const value = await attempt();
        this.#gates.delete(key);
        return value;
      } catch (error) {
        limits.signal.throwIfAborted();
        // After a passing failure the next request would hear the same.
        const isServers = error instanceof RegistryError && isPassing(error);
        if (isServers) this.#failed(key, error, startedMs);
        else await pauseAfter(this.#parts, limits, { error, failures, faults });
      } finally {
        endTrial?.();
      }
    }
  }

  /**
   * Resolves when an attempt may leave; it ends the trial, if it is one. Rejects with the failure
   * that all share, or with the reason of the operation's signal.
   */
  async #turn(key: string, limits: OperationLimits): Promise<(() => void) | undefined> {
    const { clock, metrics } = this.#parts;
    for (;;) {
      limits.signal.throwIfAborted();
      const gate = this.#gates.get(key);
      if (gate === undefined) return undefined;
      const { error, failures, untilMs } = gate;
      const nowMs = clock.nowMs();
      const isOver =
        failures >= limits.attemptsMax && (nowMs < untilMs || gate.trial !== undefined);
      if (isOver || untilMs >= limits.deadlineMs) throw error;
      if (gate.trial !== undefined) await orAbort(gate.trial.promise, limits.signal);
      else if (nowMs < untilMs) await clock.sleep(untilMs - nowMs, limits.signal);
      else {
        metrics.retries.inc({ code: error.code });
        const trial = Promise.withResolvers<void>();
        gate.trial = trial;
        return () => {
          gate.trial = undefined;
          trial.resolve();
        };
      }
    }
  }

  /** Throws the error when the server wants to be left alone for longer than anybody waits. */
  #failed(key: string, error: RegistryError, startedMs: number): void {
    const { clock, random } = this.#parts;
    const afterMs = comesBackMs(error) ?? 0;
    if (afterMs > RETRY_AFTER_MS_MAX) throw error;
    const before = this.#gates.get(key);
    // One that was in flight at the time: the same failure.
    if (before !== undefined && startedMs <= before.failedMs) return;
    const failures = (before?.failures ?? 0) + 1;
    const rests = failures - ATTEMPTS_MAX + 1;
    const pauseMs =
      rests > 0 ? backoffMs(rests, REST_MS, REST_MS_MAX) : pauseMsOf(random, failures);
    const nowMs = clock.nowMs();
    const untilMs = nowMs + Math.max(pauseMs, afterMs);
    const gate = { error, failures, failedMs: nowMs, untilMs, trial: undefined };
    this.#gates.set(key, gate, untilMs - nowMs + KEPT_MS);
  }
}
