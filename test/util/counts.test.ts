import { describe, expect, it } from 'vitest';
import { Counts } from '../../src/util/counts.ts';

describe('Counts', () => {
  it('counts each key, and forgets one whose count is 0', () => {
    const counts = new Counts<string>();
    counts.add('a');
    counts.add('a');
    counts.add('b');
    expect([counts.of('a'), counts.of('b'), counts.of('c')]).toEqual([2, 1, 0]);
    expect([...counts.keys()]).toEqual(['a', 'b']);
    expect(counts.remove('a')).toBe(1);
    expect(counts.has('a')).toBe(true);
    expect(counts.remove('a')).toBe(0);
    expect(counts.has('a')).toBe(false);
    expect(counts.size).toBe(1);
  });

  it('remove() of a key without a count leaves it at 0', () => {
    const counts = new Counts<string>();
    expect(counts.remove('a')).toBe(0);
    expect(counts.size).toBe(0);
  });
});
