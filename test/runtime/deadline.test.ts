import { describe, expect, it } from 'vitest';
import { deadline, DeadlineError, within } from '../../src/runtime/deadline.ts';
import { orAbort } from '../../src/util/or-abort.ts';
import { ManualClock } from '../kit/manual-clock.ts';

describe('deadline()', () => {
  it('aborts when the deadline has passed, with an error that names the time', () => {
    const clock = new ManualClock();
    const limit = deadline(clock, 100);
    clock.advance(99);
    expect(limit.signal.aborted).toBe(false);
    clock.advance(1);
    expect(limit.signal.reason).toEqual(new DeadlineError('not done within 100 ms'));
  });

  it('gives the reason that its caller makes', () => {
    const clock = new ManualClock();
    const late = new Error('too late');
    const limit = deadline(clock, 100, { reason: () => late });
    clock.advance(100);
    expect(limit.signal.reason).toBe(late);
  });

  it("aborts with another signal's reason, also when that has aborted already", () => {
    const clock = new ManualClock();
    const outer = new AbortController();
    const limit = deadline(clock, 100, { signal: outer.signal });
    const stopped = new Error('stopped');
    outer.abort(stopped);
    clock.advance(100);
    expect(limit.signal.reason).toBe(stopped);
    expect(deadline(clock, 100, { signal: outer.signal }).signal.reason).toBe(stopped);
  });

  it('aborts when what the work is done for has stopped', () => {
    const outer = new AbortController();
    const limit = deadline(new ManualClock(), 100, {
      signal: new AbortController().signal,
      stopped: outer.signal,
    });
    const stopped = new Error('stopped');
    outer.abort(stopped);
    expect(limit.signal.reason).toBe(stopped);
  });

  it('never aborts once it is cleared', () => {
    const clock = new ManualClock();
    const outer = new AbortController();
    const limit = deadline(clock, 100, { signal: outer.signal, stopped: outer.signal });
    limit.clear();
    clock.advance(100);
    outer.abort();
    expect(limit.signal.aborted).toBe(false);
  });
});

describe('within()', () => {
  it('gives the outcome of the task, and clears the deadline', async () => {
    const clock = new ManualClock();
    const signals: AbortSignal[] = [];
    const task = async (signal: AbortSignal): Promise<number> => signals.push(signal);
    expect(await within(clock, 100, task)).toBe(1);
    const failed = within(clock, 100, async (signal) => {
      signals.push(signal);
      throw new Error('failed');
    });
    await expect(failed).rejects.toThrow('failed');
    clock.advance(100);
    expect(signals.map(({ aborted }) => aborted)).toEqual([false, false]);
  });

  it('starts the task at once, and aborts it when the deadline has passed', async () => {
    const clock = new ManualClock();
    const never = new Promise<void>(() => {});
    const late = within(clock, 100, (signal) => orAbort(never, signal));
    clock.advance(100);
    await expect(late).rejects.toThrow(DeadlineError);
  });

  it('leaves it to the task whether an abort ends it', async () => {
    const clock = new ManualClock();
    const { promise, resolve } = Promise.withResolvers<string>();
    const deaf = within(clock, 100, () => promise);
    clock.advance(100);
    resolve('all the same');
    expect(await deaf).toBe('all the same');
  });
});
