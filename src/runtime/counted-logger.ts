import type { Clock } from './clock.ts';
import type { LogFields, Logger } from './logger.ts';

/** Warnings of one kind that are written before the rest of a minute is counted. (tunable) */
const LINES_MAX = 3;
const WINDOW_MS = 60_000;

/** Kinds that are counted at a time; there are as many as calls of `warn()` with their reasons. */
const KINDS_MAX = 1024;

/** Fields of fixed sets: lines that differ in one of them are of another kind. */
const KIND_FIELDS = ['code', 'reason', 'result', 'verdict', 'call', 'registry', 'repository'];

interface Kind {
  lines: number;
  suppressed: number;
  last: LogFields;
}

/**
 * A logger that writes the first few warnings of a kind, and of all that follow in that minute one
 * line: the last of them, with their count in `more`. A flood of any length is a line a minute.
 * Errors, and all that is not as bad as a warning, are written as they come.
 */
export function countedLogger(parts: { readonly clock: Clock; readonly logger: Logger }): Logger {
  return new CountedLogger(parts.clock, parts.logger, {}, new Map());
}

class CountedLogger implements Logger {
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #fields: LogFields;
  readonly #kinds: Map<string, Kind>;

  constructor(clock: Clock, logger: Logger, fields: LogFields, kinds: Map<string, Kind>) {
    this.#clock = clock;
    this.#logger = logger;
    this.#fields = fields;
    this.#kinds = kinds;
  }

  debug(fields: LogFields, message: string): void {
    this.#logger.debug(fields, message);
  }

  info(fields: LogFields, message: string): void {
    this.#logger.info(fields, message);
  }

  warn(fields: LogFields, message: string): void {
    const all = { ...this.#fields, ...fields };
    const key = [message, ...KIND_FIELDS.map((name) => String(all[name]))].join('\n');
    const kind = this.#kinds.get(key) ?? this.#begin(key, message);
    if (kind === undefined || ++kind.lines <= LINES_MAX) return this.#logger.warn(fields, message);
    kind.suppressed++;
    kind.last = fields;
  }

  error(fields: LogFields, message: string): void {
    this.#logger.error(fields, message);
  }

  child(fields: LogFields): Logger {
    const all = { ...this.#fields, ...fields };
    return new CountedLogger(this.#clock, this.#logger.child(fields), all, this.#kinds);
  }

  #begin(key: string, message: string): Kind | undefined {
    if (this.#kinds.size >= KINDS_MAX) return undefined;
    const kind: Kind = { lines: 0, suppressed: 0, last: {} };
    this.#kinds.set(key, kind);
    this.#watch(key, message, kind);
    return kind;
  }

  /** After a minute without a line that was held back, the next ones are written again. */
  #watch(key: string, message: string, kind: Kind): void {
    this.#clock.setTimer(WINDOW_MS, () => {
      const { suppressed, last } = kind;
      if (suppressed === 0) return void this.#kinds.delete(key);
      kind.suppressed = 0;
      this.#logger.warn({ ...last, more: suppressed }, message);
      this.#watch(key, message, kind);
    });
  }
}
