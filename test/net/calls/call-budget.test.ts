import { describe, expect, it } from 'vitest';
import { CallBudget } from '../../../src/net/calls/call-budget.ts';
import {
  PLACES_BURST_PER_ADDRESS,
  PLACES_BURST_PER_PEER,
  PLACES_PER_SECOND_PER_PEER,
} from '../../../src/net/limits.ts';
import { peerId } from '../../../src/util/peer-id.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

function budget(): {
  clock: ManualClock;
  works: (peer: string, places: number, address?: string) => boolean;
} {
  const clock = new ManualClock();
  const made = new CallBudget({ clock });
  return {
    clock,
    works: (peer, places, address = '10.0.0.1') =>
      made.mayWork({ peer: peerId(peer), address }, places),
  };
}

describe('CallBudget', () => {
  it('CallBudget lets a host join all that it may hold at once, and then as fast as its rate', () => {
    const { clock, works } = budget();
    expect(works('a', PLACES_BURST_PER_PEER)).toBe(true);
    expect(works('a', 1)).toBe(false);
    expect(works('b', 1)).toBe(true);
    clock.advance(1_000);
    expect(works('a', PLACES_PER_SECOND_PER_PEER)).toBe(true);
    expect(works('a', 1)).toBe(false);
  });

  it('CallBudget gives many identities of one address no more than the address has', () => {
    const { works } = budget();
    const count = PLACES_BURST_PER_ADDRESS / PLACES_BURST_PER_PEER;
    for (let i = 0; i < count; i++) expect(works(`host-${i}`, PLACES_BURST_PER_PEER)).toBe(true);
    expect(works('one more', PLACES_BURST_PER_PEER)).toBe(false);
    expect(works('elsewhere', PLACES_BURST_PER_PEER, '10.0.0.2')).toBe(true);
  });

  it('CallBudget lets hosts behind one NAT start an image all at once', () => {
    const { works } = budget();
    for (let i = 0; i < 256; i++) expect(works(`host-${i}`, 50 * 8)).toBe(true);
  });
});
