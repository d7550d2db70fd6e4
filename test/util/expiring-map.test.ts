import { expect, test } from 'vitest';
import { ExpiringMap } from '../../src/util/expiring-map.ts';
import { ManualClock } from '../kit/manual-clock.ts';

test('ExpiringMap expires each entry after its time, and still gives the stale value', () => {
  const clock = new ManualClock();
  const map = new ExpiringMap<number>({ clock }, { entriesMax: 10 });
  map.set('a', 1, 100);
  expect([map.get('a'), map.staleMs('a')]).toEqual([1, 0]);
  clock.advance(99);
  expect(map.get('a')).toBe(1);
  clock.advance(11);
  expect([map.get('a'), map.getStale('a'), map.staleMs('a')]).toEqual([undefined, 1, 10]);
  map.delete('a');
  expect([map.getStale('a'), map.staleMs('a')]).toEqual([undefined, undefined]);
});

test('ExpiringMap keeps its bound: it drops the entry set longest ago', () => {
  const map = new ExpiringMap<number>({ clock: new ManualClock() }, { entriesMax: 2 });
  for (const key of ['a', 'b', 'a', 'c']) map.set(key, 1, 100);
  expect(['a', 'b', 'c'].map((key) => map.get(key))).toEqual([1, undefined, 1]);
});
