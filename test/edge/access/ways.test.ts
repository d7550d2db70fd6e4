import { describe, expect, it } from 'vitest';
import { AccessError } from '../../../src/edge/access/access-error.ts';
import { Ways } from '../../../src/edge/access/ways.ts';
import type { Digest } from '../../../src/image/digest.ts';

const KEY = `sha256:${'ab'.repeat(32)}` as Digest;
const TEN_MINUTES_MS = 600_000;

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
