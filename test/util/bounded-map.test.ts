import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BoundedMap } from '../../src/util/bounded-map.ts';

interface Bounds {
  readonly evict: 'age' | 'use';
  readonly entriesMax: number;
  readonly sizeMax: number;
}

/**
 * A slow implementation of the same contract: all entries in one array, the next to be evicted
 * first.
 */
class PlainModel {
  readonly evicted: string[] = [];
  entries: { readonly key: string; readonly value: number }[] = [];
  readonly #bounds: Bounds;

  constructor(bounds: Bounds) {
    this.#bounds = bounds;
  }

  get size(): number {
    return this.entries.reduce((sum, { value }) => sum + value, 0);
  }

  peek(key: string): number | undefined {
    return this.entries.find((entry) => entry.key === key)?.value;
  }

  get(key: string): number | undefined {
    const value = this.peek(key);
    if (value !== undefined && this.#bounds.evict === 'use') {
      this.delete(key);
      this.entries.push({ key, value });
    }
    return value;
  }

  set(key: string, value: number): void {
    const { entriesMax, sizeMax } = this.#bounds;
    this.delete(key);
    if (value > sizeMax) {
      this.evicted.push(key);
      return;
    }
    this.entries.push({ key, value });
    while (this.entries.length > entriesMax || this.size > sizeMax) {
      this.evicted.push(this.entries.shift()?.key ?? '');
    }
  }

  delete(key: string): boolean {
    const before = this.entries.length;
    this.entries = this.entries.filter((entry) => entry.key !== key);
    return this.entries.length < before;
  }

  clear(): void {
    this.entries = [];
  }
}

const key = fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f');
const step = fc.oneof(
  { weight: 4, arbitrary: fc.tuple(fc.constant('set' as const), key, fc.nat(9)) },
  { weight: 4, arbitrary: fc.tuple(fc.constantFrom('get', 'peek', 'delete'), key) },
  { weight: 1, arbitrary: fc.tuple(fc.constant('clear' as const)) },
);
const bounds: fc.Arbitrary<Bounds> = fc.record({
  evict: fc.constantFrom('age', 'use'),
  entriesMax: fc.integer({ min: 1, max: 5 }),
  sizeMax: fc.constantFrom(8, 20, Infinity),
});

describe('BoundedMap', () => {
  it('behaves as a plain list of entries', () => {
    fc.assert(
      fc.property(bounds, fc.array(step, { maxLength: 60 }), (init, steps) => {
        const evicted: string[] = [];
        const map = new BoundedMap<string, number>({
          ...init,
          sizeOf: (value) => value,
          onEvict: (name) => evicted.push(name),
        });
        const model = new PlainModel(init);
        for (const [what, name = '', value = 0] of steps) {
          if (what === 'set') {
            map.set(name, value);
            model.set(name, value);
          } else if (what === 'clear') {
            map.clear();
            model.clear();
          } else expect(map[what](name)).toBe(model[what](name));
          expect([...map]).toEqual(model.entries.map((entry) => [entry.key, entry.value]));
          expect([map.count, map.size]).toEqual([model.entries.length, model.size]);
          expect(evicted).toEqual(model.evicted);
        }
      }),
    );
  });

  it('evicts the entry set longest ago by default', () => {
    const map = new BoundedMap<string, number>({ entriesMax: 2 });
    for (const name of ['a', 'b', 'a', 'c']) map.set(name, 1);
    expect(map.get('a')).toBe(1);
    map.set('d', 1);
    expect([...map].map(([name]) => name)).toEqual(['c', 'd']);
  });

  it('may be emptied, entry by entry, during an iteration', () => {
    const map = new BoundedMap<number, string>({ entriesMax: 10 });
    for (let i = 0; i < 5; i++) map.set(i, 'x');
    for (const [i] of map) map.delete(i);
    expect([map.count, [...map]]).toEqual([0, []]);
  });
});
