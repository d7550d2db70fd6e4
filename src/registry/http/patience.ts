import type { Clock } from '../../runtime/clock.ts';
import { SILENCE_MS_MAX } from './http.ts';

/** One of the requests for the same thing. */
type Ask<T> = (signal: AbortSignal, claim: () => void) => Promise<T>;

/**
 * Asks, and asks once more beside it when nothing was heard for 10 s: the connection may be dead.
 * The first request still stays open to the end, since some servers (caches that fetch the blob
 * first) are silent for long and start over when their client goes away. The one that calls
 * `claim()` first, when its answer begins, ends the other; so the answers of two are never mixed.
 */
export async function askPatiently<T>(
  clock: Clock,
  signal: AbortSignal,
  ask: Ask<T>,
  isPassing: (error: unknown) => boolean,
): Promise<T> {
  signal.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const asking = new Set<AbortController>();
  const begin = (): void => {
    const own = new AbortController();
    asking.add(own);
    const claim = (): void => {
      own.signal.throwIfAborted();
      second.cancel();
      for (const other of asking) if (other !== own) end(other);
    };
    const failed = (error: unknown): void => {
      if (!asking.delete(own)) return;
      // The other one may still be answered.
      if (asking.size === 0 || !isPassing(error)) reject(error as Error);
    };
    ask(own.signal, claim).then(resolve, failed);
  };
  const end = (own: AbortController): void => {
    asking.delete(own);
    own.abort(new Error('another request was answered'));
  };
  const onAbort = (): void => {
    for (const own of asking) own.abort(signal.reason);
  };
  const second = clock.setTimer(SILENCE_MS_MAX, begin);
  signal.addEventListener('abort', onAbort, { once: true });
  begin();
  try {
    return await promise;
  } finally {
    second.cancel();
    signal.removeEventListener('abort', onAbort);
    for (const own of [...asking]) end(own);
  }
}
