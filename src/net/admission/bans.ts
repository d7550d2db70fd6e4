import type { Clock } from '../../runtime/clock.ts';
import { backoffMs } from '../../util/backoff.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import {
  BANS_MAX,
  BAN_FORGOTTEN_MS,
  BAN_MS_MAX,
  BAN_MS_MIN,
  FAILURE_FORGOTTEN_MS,
} from '../limits.ts';

interface Record {
  /** Failures, less what was forgotten until `failedMs`. */
  readonly level: number;
  readonly failedMs: number;
  readonly banCount: number;
  readonly bannedUntilMs: number;
}

const CLEAN: Record = { level: 0, failedMs: 0, banCount: 0, bannedUntilMs: -Infinity };

/**
 * Names (of peers or addresses) that failed too often recently. Each is turned away for a time that
 * doubles with every ban.
 */
export class Bans {
  readonly #clock: Clock;
  readonly #failuresMax: number;
  readonly #records = new BoundedMap<string, Record>({ entriesMax: BANS_MAX });

  /** `failuresMax`: failures without a ban, one forgotten per `FAILURE_FORGOTTEN_MS`. */
  constructor(components: { readonly clock: Clock }, init: { readonly failuresMax: number }) {
    this.#clock = components.clock;
    this.#failuresMax = init.failuresMax;
  }

  isBanned(name: string): boolean {
    const record = this.#records.get(name);
    return record !== undefined && this.#clock.nowMs() < record.bannedUntilMs;
  }

  /** Milliseconds of the ban that this failure begins; 0 when it begins none. */
  fail(name: string): number {
    const nowMs = this.#clock.nowMs();
    const before = this.#records.get(name) ?? CLEAN;
    const forgotten = (nowMs - before.failedMs) / FAILURE_FORGOTTEN_MS;
    const level = Math.max(0, before.level - forgotten) + 1;
    if (level <= this.#failuresMax) {
      this.#records.set(name, { ...before, level, failedMs: nowMs });
      return 0;
    }
    const calm = nowMs > before.bannedUntilMs + BAN_FORGOTTEN_MS;
    const banCount = calm ? 1 : before.banCount + 1;
    const banMs = backoffMs(banCount, BAN_MS_MIN, BAN_MS_MAX);
    this.#records.set(name, { level: 0, failedMs: nowMs, banCount, bannedUntilMs: nowMs + banMs });
    return banMs;
  }

  /** Forgets the failures of a name that did well. */
  forgive(name: string): void {
    this.#records.delete(name);
  }
}
