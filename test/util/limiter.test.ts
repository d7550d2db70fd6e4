import { describe, expect, it } from 'vitest';
import { defined } from '../../src/util/assert.ts';
import { Limiter } from '../../src/util/limiter.ts';

describe('Limiter', () => {
  it('Limiter.run() keeps the bound and the order', async () => {
    const limiter = new Limiter({ runningMax: 2, waitingMax: 10 });
    const gates = Array.from({ length: 5 }, () => Promise.withResolvers<void>());
    const started: number[] = [];
    const done = gates.map((gate, i) => {
      const task = limiter.run(async () => {
        started.push(i);
        await gate.promise;
        return i;
      });
      return defined(task, 'the line is not full');
    });
    expect(started).toEqual([0, 1]);
    gates[1]?.resolve();
    await done[1];
    await Promise.resolve();
    expect(started).toEqual([0, 1, 2]);
    for (const gate of gates) gate.resolve();
    expect(await Promise.all(done)).toEqual([0, 1, 2, 3, 4]);
    expect(started).toEqual([0, 1, 2, 3, 4]);
  });

  it('Limiter.run() gives undefined when the line is full, and recovers', async () => {
    const limiter = new Limiter({ runningMax: 1, waitingMax: 1 });
    const gate = Promise.withResolvers<void>();
    const first = limiter.run(() => gate.promise);
    const second = limiter.run(() => Promise.resolve('second'));
    expect(limiter.full).toBe(true);
    expect(limiter.run(() => Promise.resolve())).toBeUndefined();
    gate.resolve();
    await first;
    expect(await second).toBe('second');
    expect(limiter.full).toBe(false);
  });

  it('Limiter.run() frees the place of a task that failed', async () => {
    const limiter = new Limiter({ runningMax: 1, waitingMax: 0 });
    await expect(limiter.run(() => Promise.reject(new Error('no')))).rejects.toThrow('no');
    expect(await limiter.run(() => Promise.resolve(1))).toBe(1);
  });

  it('Limiter.run() lets an aborted task leave at once, and no other loses its place', async () => {
    const limiter = new Limiter({ runningMax: 1, waitingMax: 3 });
    const gate = Promise.withResolvers<void>();
    const running = limiter.run(() => gate.promise);
    const leaving = [new AbortController(), new AbortController()];
    const ran: string[] = [];
    const waiting = leaving.map(({ signal }) =>
      limiter.run(async () => void ran.push('no'), signal),
    );
    const last = limiter.run(async () => void ran.push('last'));
    expect(limiter.full).toBe(true);
    for (const each of leaving) each.abort(new Error('gone'));
    expect(limiter.full).toBe(false);
    for (const each of waiting) await expect(each).rejects.toThrow('gone');
    await expect(limiter.run(() => Promise.resolve(), AbortSignal.abort())).rejects.toThrow();
    gate.resolve();
    await Promise.all([running, last]);
    expect(ran).toEqual(['last']);
    expect(limiter.idle).toBe(true);
  });
});
