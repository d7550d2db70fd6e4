import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatSizeBytes, parseSizeBytes } from '../../src/util/sizes.ts';

describe('parseSizeBytes()', () => {
  it.each([
    ['0', 0],
    ['4096', 4096],
    ['100B', 100],
    ['64KiB', 65_536],
    ['1.5 GiB', 1.5 * 2 ** 30],
    ['1PiB', 2 ** 50],
  ])('reads %s', (text, bytes) => {
    expect(parseSizeBytes(text)).toBe(bytes);
  });

  it.each([
    '',
    'GiB',
    '-1',
    '20GB',
    '20gib',
    '1e3',
    '0x10',
    '1.3B',
    ' 1',
    '1  GiB',
    '8PiB',
    '9'.repeat(16),
  ])('refuses %j', (text) => {
    expect(parseSizeBytes(text)).toBeUndefined();
  });
});

describe('formatSizeBytes()', () => {
  it('shows at most two digits after the point', () => {
    expect([0, 1023, 1024, 1.5 * 2 ** 20, 20 * 2 ** 30].map(formatSizeBytes)).toEqual([
      '0B',
      '1023B',
      '1KiB',
      '1.5MiB',
      '20GiB',
    ]);
  });

  it('parses back to the same size, within a hundredth', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 50 }), (bytes) => {
        const text = formatSizeBytes(bytes);
        const shown = /^([0-9.]+)(.*)$/.exec(text);
        const unit = parseSizeBytes(`1${shown?.[2] ?? ''}`) ?? 0;
        expect(Math.abs(Number(shown?.[1]) * unit - bytes)).toBeLessThanOrEqual(unit * 0.005001);
      }),
    );
  });
});
