import type { EventEmitter } from 'node:events';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/logger.ts';
import { END_SIGNALS } from './end-signals.ts';

/**
 * Longest stop, to notify peers and containers, to unmount, and to make the store durable.
 * Kubernetes kills after 30 s.
 */
const STOP_MS_MAX = 10_000;

/**
 * Anything that keeps the process alive this long after a stop is a leak; it must not delay a
 * restart.
 */
const LINGER_MS_MAX = 2_000;

/**
 * A program part that runs until it is stopped. `stop()` may be called at any time, also while
 * `start()` is in flight.
 */
export interface Service {
  /** It logs itself when it is ready, which is later than its start, and may end. */
  readonly saysReady?: boolean;
  start(): Promise<void>;
  stop(): Promise<void>;
}

interface RunComponents {
  readonly logger: Logger;
  readonly clock: Clock;
  /** Emits the signals and `uncaughtException`: the process. */
  readonly events: EventEmitter;
  /** Ends the process at once. */
  readonly exit: (code: number) => void;
}

/**
 * Starts the service and runs it until SIGTERM or SIGINT, then stops it within 10 s. Returns the
 * exit code.
 *
 * A second signal ends the process at once, and so does a stop that takes more than 10 s. After an
 * uncaught error (a bug) it logs the error and stops the service with code 1. Rejects when the
 * service cannot start.
 */
export async function runUntilSignal(service: Service, components: RunComponents): Promise<number> {
  const { logger } = components;
  const stopping = watch(components);
  const started = service.start().then(() => {
    if (!stopping.requested && service.saysReady !== true) logger.info({}, 'ready');
  });
  try {
    // A stop during the start does not wait for the start.
    await Promise.race([started, stopping.code]);
    const code = await stopping.code;
    return (await stopWithin(service, components)) ? code : 1;
  } catch (error) {
    await stopWithin(service, components);
    throw error;
  } finally {
    stopping.unwatch();
  }
}

/** Resolves with the exit code at the first reason to stop; ends the process at the second. */
function watch(components: RunComponents) {
  const { logger, events, exit } = components;
  const { promise, resolve } = Promise.withResolvers<number>();
  const state = { requested: false };
  const request = (code: number, codeAgain: number): void => {
    if (state.requested) exit(codeAgain);
    state.requested = true;
    resolve(code);
  };
  const handlers = Object.entries(END_SIGNALS).map(([signal, codeAgain]) => {
    const handler = (): void => {
      logger.info({ signal }, state.requested ? 'ending at once' : 'stopping');
      request(0, codeAgain);
    };
    events.on(signal, handler);
    return [signal, handler] as const;
  });
  const onError = (error: unknown): void => {
    logger.error({ error }, 'uncaught error (bug), stopping');
    request(1, 1);
  };
  events.on('uncaughtException', onError);
  return {
    code: promise,
    get requested(): boolean {
      return state.requested;
    },
    unwatch: (): void => {
      for (const [signal, handler] of handlers) events.off(signal, handler);
      events.off('uncaughtException', onError);
    },
  };
}

/** Stops the service; returns whether the stop succeeded. */
async function stopWithin(service: Service, components: RunComponents): Promise<boolean> {
  const { logger, clock, exit } = components;
  const timer = clock.setTimer(STOP_MS_MAX, () => {
    logger.error({ timeoutMs: STOP_MS_MAX }, 'stop exceeded its deadline: exiting at once');
    exit(1);
  });
  try {
    await service.stop();
    logger.info({}, 'stopped');
    return true;
  } catch (error) {
    logger.error({ error }, 'cannot stop the service cleanly');
    return false;
  } finally {
    timer.cancel();
    clock.setTimer(LINGER_MS_MAX, () => {
      logger.warn({}, 'work still in progress after the stop (leak): exiting');
      exit(Number(process.exitCode ?? 0));
    });
  }
}
