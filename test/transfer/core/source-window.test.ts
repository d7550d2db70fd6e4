import { describe, expect, it } from 'vitest';
import { CORE_DEFAULTS, type SourceWindow } from '../../../src/transfer/core/core-types.ts';
import {
  makeWindow,
  nextPrefetch,
  noteHeard,
  silenceMs,
  unqueue,
} from '../../../src/transfer/core/source-window.ts';
import { peerId } from '../../../src/util/peer-id.ts';

/** A peer of which something is asked, heard of at these times. */
function heardAt(...timesMs: number[]): SourceWindow<unknown> {
  const window = makeWindow<unknown>({ peer: peerId('p'), addresses: [] });
  window.asked.add({} as never);
  for (const timeMs of timesMs) noteHeard(window, timeMs, CORE_DEFAULTS);
  return window;
}

const silence = (window: SourceWindow<unknown>): number => silenceMs(window, CORE_DEFAULTS);

describe('silenceMs()', () => {
  it('is short for a peer that says regularly that it is alive, longer for the first word', () => {
    expect(silence(heardAt())).toBe(1000);
    expect(silence(heardAt(50, 150, 250))).toBe(300);
  });

  it('is three times as long as the peer was recently silent', () => {
    const window = heardAt(100, 350);
    expect(silence(window)).toBe(750);
    noteHeard(window, 400, CORE_DEFAULTS);
    expect(silence(window)).toBeGreaterThan(740);
    for (let timeMs = 450; timeMs < 20_000; timeMs += 50) noteHeard(window, timeMs, CORE_DEFAULTS);
    expect(silence(window)).toBe(300);
  });

  it('is longer for a peer that was given up and then spoke, up to the maximum', () => {
    const window = heardAt(100);
    window.lostSinceMs = 100;
    window.asked.clear();
    noteHeard(window, 600, CORE_DEFAULTS);
    expect(silence(window)).toBe(1500);
    window.lostSinceMs = 600;
    noteHeard(window, 2500, CORE_DEFAULTS);
    expect(silence(window)).toBe(CORE_DEFAULTS.silentMsMax);
  });

  it('takes no notice of a peer that was away, or was asked nothing', () => {
    const away = heardAt(100);
    away.lostSinceMs = 100;
    noteHeard(away, 30_000, CORE_DEFAULTS);
    expect(silence(away)).toBe(300);
    const idle = heardAt(100);
    idle.asked.clear();
    noteHeard(idle, 900, CORE_DEFAULTS);
    expect(silence(idle)).toBe(300);
  });
});

describe('nextPrefetch()', () => {
  /** The order in which prefetches leave that were queued in this order: blob and block. */
  function order(queued: readonly (readonly [string, number])[]): readonly string[] {
    const window = makeWindow<unknown>({ peer: peerId('p'), addresses: [] });
    const blobs = new Map<string, object>();
    for (const [name, index] of queued) {
      const blob = blobs.get(name) ?? { name };
      blobs.set(name, blob);
      const fetch = { blob, index };
      window.prefetch.push({ window, kind: 'prefetch', fetch } as never);
    }
    const left: string[] = [];
    for (let next = nextPrefetch(window); next !== undefined; next = nextPrefetch(window)) {
      unqueue(next);
      const { blob, index } = next.fetch as unknown as { blob: { name: string }; index: number };
      left.push(`${blob.name}${index}`);
    }
    return left;
  }

  const both = (count: number): (readonly [string, number])[] =>
    Array.from({ length: count }, (_, i) => [['a', i] as const, ['b', i] as const]).flat();

  it('lets the blocks of a blob leave in a row, and then those of another', () => {
    const rows = ['a', 'b'].map((name) => Array.from({ length: 3 }, (_, i) => `${name}${i}`));
    expect(order(both(3))).toEqual(rows.flat());
  });

  it('lets another blob have its turn after 16 blocks', () => {
    const left = order(both(20));
    expect(left.slice(0, 16).every((name) => name.startsWith('a'))).toBe(true);
    expect(left[16]).toBe('b0');
    expect(left).toHaveLength(40);
  });

  it('goes on at most eight blocks further', () => {
    const blocks = [0, 1, 20, 9].map((index) => ['a', index] as const);
    expect(order([...blocks, ['b', 0]])).toEqual(['a0', 'a1', 'a9', 'a20', 'b0']);
  });
});
