import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TouchedPages } from '../../src/device/touched-pages.ts';

describe('TouchedPages', () => {
  it('counts each page once, whatever ranges are marked', () => {
    const range = fc.record({ offset: fc.nat(399), length: fc.integer({ min: 1, max: 100 }) });
    fc.assert(
      fc.property(fc.array(range, { maxLength: 30 }), (ranges) => {
        const pages = new TouchedPages(500 * 4096);
        const other = new TouchedPages(500 * 4096, pages.shared);
        const expected = new Set<number>();
        for (const { offset, length } of ranges) {
          // In half pages, so that ranges begin and end within one.
          pages.mark(offset * 2048, length * 2048);
          const last = Math.floor((offset + length - 1) / 2);
          for (let page = Math.floor(offset / 2); page <= last; page++) expected.add(page);
        }
        expect(other.count()).toBe(expected.size * 4096);
      }),
    );
  });

  it('tells larger pages apart on disks that are too large for small ones', () => {
    const pages = new TouchedPages(2 ** 40);
    expect(pages.shared.byteLength).toBe(1024 * 1024);
    pages.mark(2 ** 40 - 1, 1);
    expect(pages.count()).toBe(2 ** 40 / (8 * 1024 * 1024));
  });
});
