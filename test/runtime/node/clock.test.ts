import { describe, expect, it } from 'vitest';
import { SystemClock } from '../../../src/runtime/node/clock.ts';

describe('SystemClock', () => {
  const clock = new SystemClock();

  it('SystemClock.nowMs() never goes back', () => {
    let last = clock.nowMs();
    for (let i = 0; i < 1000; i++) {
      const now = clock.nowMs();
      expect(now).toBeGreaterThanOrEqual(last);
      last = now;
    }
  });

  it('SystemClock.wallMs() is after 2024', () => {
    expect(clock.wallMs()).toBeGreaterThan(Date.UTC(2024, 0, 1));
  });

  it('SystemClock.sleep() takes at least the delay', async () => {
    for (let i = 0; i < 20; i++) {
      const before = clock.nowMs();
      await clock.sleep(1.5);
      expect(clock.nowMs() - before).toBeGreaterThanOrEqual(1.5);
    }
  });

  it('SystemClock.sleep() rejects with the reason of an abort, before and during', async () => {
    const reason = new Error('enough');
    await expect(clock.sleep(1e6, AbortSignal.abort(reason))).rejects.toBe(reason);
    const controller = new AbortController();
    const sleeping = clock.sleep(1e6, controller.signal);
    controller.abort(reason);
    await expect(sleeping).rejects.toBe(reason);
  });

  it('SystemClock.setTimer() calls back once, and not after cancel()', async () => {
    const calls: string[] = [];
    const cancelled = clock.setTimer(0, () => calls.push('cancelled'));
    cancelled.cancel();
    clock.setTimer(0, () => calls.push('kept'));
    await clock.sleep(5);
    expect(calls).toEqual(['kept']);
    cancelled.cancel();
  });

  it('SystemClock.setTimer() clamps delays beyond the limit of Node', async () => {
    let fired = false;
    const timer = clock.setTimer(2 ** 33, () => (fired = true));
    await clock.sleep(5);
    timer.cancel();
    expect(fired).toBe(false);
  });
});
