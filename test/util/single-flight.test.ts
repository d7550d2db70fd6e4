import { describe, expect, it } from 'vitest';
import { SingleFlight } from '../../src/util/single-flight.ts';

describe('SingleFlight.run()', () => {
  it('gives concurrent callers the outcome of one task', async () => {
    const flights = new SingleFlight<string, number>();
    let count = 0;
    const task = async (): Promise<number> => ++count;
    const asked = [flights.run('a', task), flights.run('b', task), flights.run('a', task)];
    expect([count, flights.size, flights.has('a'), flights.has('c')]).toEqual([2, 2, true, false]);
    expect(await Promise.all(asked)).toEqual([1, 2, 1]);
  });

  it('starts a new task when the last one has settled, failed or thrown', async () => {
    const flights = new SingleFlight<string, number>();
    const failing = flights.run('a', () => {
      throw new Error('failed');
    });
    const sharing = flights.run('a', async () => 1);
    await expect(failing).rejects.toThrow('failed');
    await expect(sharing).rejects.toThrow('failed');
    expect(flights.has('a')).toBe(false);
    expect(await flights.run('a', async () => 2)).toBe(2);
    expect(flights.size).toBe(0);
  });
});
