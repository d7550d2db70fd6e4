import { describe, expect, it } from 'vitest';
import { AccessError } from '../../../src/edge/access/access-error.ts';
import { Ways, type Way } from '../../../src/edge/access/ways.ts';
import type { Digest } from '../../../src/image/digest.ts';
import type { PeerId } from '../../../src/util/peer-id.ts';

const KEY = `sha256:${'ab'.repeat(32)}` as Digest;
const TEN_MINUTES_MS = 600_000;

function makeWays() {
  const clock = { nowMs: 0 };
  const ways = new Ways({ clock: { nowMs: () => clock.nowMs } });
  const lend = (lender: string, signature: string): Way =>
    ways.add(KEY, {
      url: `https://s/${lender}/${signature}`,
      authorization: undefined,
      lender: lender as PeerId,
    });
  return { ways, lend, clock };
}

describe('Ways', () => {
  it('Ways.of() gives the newest first, of clients four', () => {
    const ways = new Ways({ clock: { nowMs: () => 0 } });
    const add = (authorization: string) => ways.add(KEY, { url: 'https://r/', authorization });
    const made = ['a', 'b', 'c', 'd', 'e'].map(add);
    expect(ways.of(KEY)).toEqual(made.slice(1).toReversed());
    expect(add('c')).toBe(made[2]);
    expect(ways.of(KEY)[0]).toBe(made[2]);
  });

  it('Ways.of() leaves out what nobody showed for ten minutes, unless a request runs by it', () => {
    let nowMs = 0;
    const ways = new Ways({ clock: { nowMs: () => nowMs } });
    const idle = ways.add(KEY, { url: 'https://r/', authorization: 'idle' });
    const used = ways.add(KEY, { url: 'https://r/', authorization: 'used' });
    const end = used.watch(() => {});
    expect(ways.of(KEY)).toEqual([used, idle]);
    nowMs = TEN_MINUTES_MS;
    expect(ways.of(KEY)).toEqual([used]);
    end();
    expect(ways.of(KEY)).toEqual([]);
  });

  it('an attacker who lends URLs, as any number of hosts, pushes out none that gave bytes', () => {
    const { ways, lend } = makeWays();
    const good = lend('honest', 'good');
    ways.gave(KEY, good);
    for (const lender of ['a', 'b', 'c', 'd', 'e', 'honest']) lend(lender, 'forged');
    expect(ways.of(KEY)[0]).toBe(good);
    expect(ways.of(KEY)).toHaveLength(4);
    const next = lend('honest', 'next');
    ways.gave(KEY, next);
    expect(ways.of(KEY)[0]).toBe(next);
    expect(ways.of(KEY)).not.toContain(good);
  });

  it('an attacker whose lent URL was refused comes behind other lenders for a minute', () => {
    const { ways, lend, clock } = makeWays();
    const lenders = ['a', 'b', 'c', 'd'];
    for (const lender of lenders) ways.remove(KEY, lend(lender, 'forged'));
    const honest = lend('honest', 'new');
    for (const lender of lenders) lend(lender, 'forged again');
    expect(ways.of(KEY)[0]).toBe(honest);
    expect(ways.of(KEY)).toHaveLength(4);
    clock.nowMs += 60_000;
    const [again] = lenders.map((lender) => lend(lender, 'a minute later')).slice(-1);
    expect(ways.of(KEY)[0]).toBe(again);
  });

  it('leaves a place to URLs that nobody has tried, since signatures end together', () => {
    const { ways, lend } = makeWays();
    for (const lender of ['a', 'b', 'c', 'd']) ways.gave(KEY, lend(lender, 'good'));
    expect(ways.of(KEY)).toHaveLength(4);
    const untried = lend('e', 'new');
    expect(ways.of(KEY).map(({ lender }) => lender)).toEqual(['d', 'c', 'b', 'e']);
    expect(ways.of(KEY)[3]).toBe(untried);
  });

  it('Way.close() tells those who watch, and nobody else', () => {
    const way = new Ways({ clock: { nowMs: () => 0 } }).add(KEY, {
      url: 'https://r/',
      authorization: undefined,
    });
    const told: string[] = [];
    way.watch(() => told.push('a'));
    way.watch(() => told.push('b'))();
    way.close(new AccessError('over', { code: 'unauthorized', challenges: [] }));
    expect(told).toEqual(['a']);
  });
});
