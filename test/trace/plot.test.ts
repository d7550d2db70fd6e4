import { describe, expect, it } from 'vitest';
import { plotTrace } from '../../src/trace/plot.ts';

const MIB = 2 ** 20;

describe('plotTrace()', () => {
  it('draws each read, names layers and units, and knows dark ground', () => {
    const svg = plotTrace('oci:<a>&b:1', [
      { op: 'read', layer: 2, offset: 0, length: MIB },
      { op: 'read', layer: 0, offset: 3 * MIB, length: 2 * MIB },
      { op: 'write', layer: 1, offset: 0, length: MIB },
      { op: 'read', layer: 2, offset: 2 * MIB, length: MIB },
    ]);
    expect(svg).toContain('First reads of oci:&lt;a&gt;&amp;b:1');
    expect(svg).toContain('4MiB in 3 reads of 2 layers');
    expect(svg).toContain('layer 2: 2MiB in 2 reads');
    expect(svg).toContain('read so far, in order of the first touch [MiB]');
    expect(svg).toContain('prefers-color-scheme: dark');
    const dashes = [...svg.matchAll(/ d="([^"]*)"/g)].map(([, d]) => d?.split('M').length);
    expect(dashes).toEqual([2, 3]);
    // Left to right in order: the second read begins where the first one ends.
    expect(svg).toMatch(/d="M246 [0-9.]+L546 /);
  });

  it('draws a trace without reads', () => {
    expect(plotTrace('a', [])).toContain('0B in 0 reads of 0 layers');
  });
});
