import { expect, test } from 'vitest';
import { backoffMs } from '../../src/util/backoff.ts';

test('backoffMs() doubles from the shortest pause to the longest', () => {
  const pauses = [1, 2, 3, 4, 5, 2000].map((count) => backoffMs(count, 100, 1_000));
  expect(pauses).toEqual([100, 200, 400, 800, 1_000, 1_000]);
});
