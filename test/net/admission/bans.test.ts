import { describe, expect, it } from 'vitest';
import { Bans } from '../../../src/net/admission/bans.ts';
import { BANS_MAX, BAN_FORGOTTEN_MS, FAILURE_FORGOTTEN_MS } from '../../../src/net/limits.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

function bansWith(failuresMax: number): { clock: ManualClock; bans: Bans } {
  const clock = new ManualClock();
  return { clock, bans: new Bans({ clock }, { failuresMax }) };
}

describe('Bans', () => {
  it('Bans.fail() bans for 1, 2, 4 ... 30 s, and for 1 s again after a calm time', () => {
    const { clock, bans } = bansWith(0);
    const times: number[] = [];
    for (let i = 0; i < 7; i++) {
      const banMs = bans.fail('a');
      times.push(banMs);
      expect(bans.isBanned('a')).toBe(true);
      clock.advance(banMs - 1);
      expect(bans.isBanned('a')).toBe(true);
      clock.advance(1);
      expect(bans.isBanned('a')).toBe(false);
    }
    expect(times).toEqual([1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
    clock.advance(BAN_FORGOTTEN_MS + 1);
    expect(bans.fail('a')).toBe(1000);
    expect(bans.isBanned('b')).toBe(false);
  });

  it('Bans.fail() bears as many failures at once as it says, and one more per second', () => {
    const { clock, bans } = bansWith(3);
    expect([1, 2, 3].map(() => bans.fail('a'))).toEqual([0, 0, 0]);
    clock.advance(FAILURE_FORGOTTEN_MS);
    expect(bans.fail('a')).toBe(0);
    expect(bans.fail('a')).toBe(1000);
    for (let i = 0; i < 50; i++) {
      clock.advance(FAILURE_FORGOTTEN_MS);
      expect(bans.fail('slow')).toBe(0);
    }
  });

  it('Bans.forgive() forgets all', () => {
    const { bans } = bansWith(0);
    bans.fail('a');
    bans.forgive('a');
    expect(bans.isBanned('a')).toBe(false);
    expect(bans.fail('a')).toBe(1000);
  });

  it('Bans.fail() remembers the ones that failed last, and no more than its bound', () => {
    const { bans } = bansWith(0);
    for (let i = 0; i <= BANS_MAX; i++) bans.fail(`${i}`);
    expect(bans.isBanned('0')).toBe(false);
    expect(bans.isBanned('1')).toBe(true);
    expect(bans.isBanned(`${BANS_MAX}`)).toBe(true);
  });
});
