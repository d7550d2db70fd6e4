import {
  pino,
  stdSerializers,
  stdTimeFunctions,
  type DestinationStream,
  type Logger as Pino,
} from 'pino';
import type { LogFields, Logger } from '../logger.ts';

/** Least severe level that is logged; `silent` logs nothing. */
export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent';

/**
 * Logs one JSON object per line, by default to standard error: standard output belongs to the
 * output of commands. A call returns after its line is written, so that a crash loses no line. An
 * Error in the field `error` is logged with its code, data, causes and stack.
 */
export function jsonLogger(init: { level: LogLevel; destination?: DestinationStream }): Logger {
  const destination = init.destination ?? pino.destination({ dest: 2, sync: true });
  return new PinoLogger(
    pino(
      {
        level: init.level,
        timestamp: stdTimeFunctions.isoTime,
        formatters: { level: (label) => ({ level: label }) },
        serializers: { error: stdSerializers.err },
      },
      destination,
    ),
  );
}

class PinoLogger implements Logger {
  readonly #pino: Pino;

  constructor(instance: Pino) {
    this.#pino = instance;
  }

  debug(fields: LogFields, message: string): void {
    this.#pino.debug(fields, message);
  }

  info(fields: LogFields, message: string): void {
    this.#pino.info(fields, message);
  }

  warn(fields: LogFields, message: string): void {
    this.#pino.warn(fields, message);
  }

  error(fields: LogFields, message: string): void {
    this.#pino.error(fields, message);
  }

  child(fields: LogFields): Logger {
    return new PinoLogger(this.#pino.child(fields));
  }
}
