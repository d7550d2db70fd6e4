import { expect, it } from 'vitest';
import { parseDigest } from '../../../src/image/digest.ts';
import { LastFailures } from '../../../src/transfer/drive/last-failures.ts';
import { defined } from '../../../src/util/assert.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

it('LastFailures tells the last failure of each source of a blob, for a minute', () => {
  const clock = new ManualClock();
  const failures = new LastFailures({ clock });
  const [a, b] = ['a', 'b'].map((digit) => defined(parseDigest(`sha256:${digit.repeat(64)}`), ''));
  if (a === undefined || b === undefined) return expect.unreachable();
  failures.note(a, 'the registry', 'ECONNREFUSED');
  clock.advance(30_000);
  failures.note(a, 'host 1', 'timeout');
  failures.note(a, 'host 1', 'unreachable');
  expect(failures.of(a)).toBe('; the registry: ECONNREFUSED; host 1: unreachable');
  expect(failures.of(b)).toBe('');
  clock.advance(30_001);
  expect(failures.of(a)).toBe('; host 1: unreachable');
  for (let i = 2; i <= 6; i++) failures.note(a, `host ${i}`, 'hops');
  expect(failures.of(a).split('; ')).toHaveLength(5);
});
