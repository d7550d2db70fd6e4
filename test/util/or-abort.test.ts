import { describe, expect, it } from 'vitest';
import { orAbort } from '../../src/util/or-abort.ts';

describe('orAbort()', () => {
  it('gives the outcome of the promise', async () => {
    const { signal } = new AbortController();
    expect(await orAbort(Promise.resolve(1), signal)).toBe(1);
    await expect(orAbort(Promise.reject(new Error('failed')), signal)).rejects.toThrow('failed');
  });

  it('rejects with the reason as soon as the signal aborts', async () => {
    const abort = new AbortController();
    const waiting = orAbort(new Promise<void>(() => {}), abort.signal);
    abort.abort(new Error('enough'));
    await expect(waiting).rejects.toThrow('enough');
  });

  it('prefers a signal that has aborted, and handles the unawaited rejection', async () => {
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(orAbort(Promise.resolve(1), signal)).rejects.toThrow('enough');
    const { promise, reject } = Promise.withResolvers<void>();
    await expect(orAbort(promise, signal)).rejects.toThrow('enough');
    // An unhandled rejection would fail the run.
    reject(new Error('later'));
  });
});
