import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseByteRange } from '../../../src/edge/http/byte-range.ts';

describe('parseByteRange()', () => {
  it.each([
    ['bytes=0-0', { offset: 0, length: 1 }],
    ['bytes=10-19', { offset: 10, length: 10 }],
    ['bytes=90-1000', { offset: 90, length: 10 }],
    ['bytes=90-', { offset: 90, length: 10 }],
    ['bytes=-10', { offset: 90, length: 10 }],
    ['bytes=-1000', { offset: 0, length: 100 }],
    ['Bytes=1-2', { offset: 1, length: 2 }],
    [`bytes=98-${'9'.repeat(30)}`, { offset: 98, length: 2 }],
    ['bytes= 5-9 , ,', { offset: 5, length: 5 }],
    ['bytes=0-0,100-', { offset: 0, length: 1 }],
  ])('reads %s of 100 bytes', (header, range) => {
    expect(parseByteRange(header, 100)).toEqual(range);
  });

  it.each([
    'bytes=100-',
    'bytes=100-200',
    'bytes=-0',
    'bytes=5-4',
    'bytes=-',
    'bytes=',
    'bytes=a-b',
    'bytes=0-1,x',
    'bytes=0-1,5-4',
    'bytes=100-,200-300, -0',
    'bytes=,',
    'bytes=1-2x',
    `bytes=${'9'.repeat(20)}-`,
    'bytes=- 1',
    'bytes=0x1-2',
  ])('cannot satisfy %s of 100 bytes', (header) => {
    expect(parseByteRange(header, 100)).toBe('unsatisfiable');
  });

  it.each([undefined, '', 'items=0-1', 'byte=0-1'])('ignores %s', (header) => {
    expect(parseByteRange(header, 100)).toBe('whole');
  });

  it.each([
    'bytes=0-3,10-20',
    'bytes=0-0,-1',
    'bytes=0-50, 20-70',
    'bytes=10-19,0-9',
    `bytes=${Array.from({ length: 200 }, (_, i) => `${i}-${i}`).join(',')}`,
  ])('ignores several ranges that can be satisfied: %s', (header) => {
    expect(parseByteRange(header, 100)).toBe('whole');
  });

  it('gives all of an empty body, which has no parts', () => {
    for (const header of ['bytes=0-', 'bytes=0-0', 'bytes=-1', 'bytes=0-1,5-'])
      expect(parseByteRange(header, 0)).toBe('whole');
    expect(parseByteRange('bytes=x', 0)).toBe('unsatisfiable');
  });

  it('gives a range within the body, or none', () => {
    fc.assert(
      fc.property(fc.nat(), fc.nat(), fc.integer({ min: 1, max: 2000 }), (first, last, size) => {
        const range = parseByteRange(`bytes=${first}-${last}`, size);
        if (typeof range === 'string') {
          expect(first >= size || last < first).toBe(true);
          return;
        }
        expect(range.offset).toBe(first);
        expect(range.length).toBe(Math.min(last, size - 1) - first + 1);
      }),
    );
  });
});
