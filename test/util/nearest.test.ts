import { describe, expect, it } from 'vitest';
import { nearest } from '../../src/util/nearest.ts';

describe('nearest()', () => {
  const known = ['store', 'store.dir', 'store.quota', 'zone'];

  it.each([
    ['store.qouta', 'store.quota'],
    ['stor.dir', 'store.dir'],
    ['stroe', 'store'],
    ['sotre.dri', 'store.dir'],
    ['ZONE', 'zone'],
    ['zones', 'zone'],
  ])('takes %s for %s', (name, meant) => {
    expect(nearest(name, known)).toBe(meant);
  });

  it.each(['', 'replicas', 'x'.repeat(10_000)])('finds no name for %.20s', (name) => {
    expect(nearest(name, known)).toBeUndefined();
  });
});
