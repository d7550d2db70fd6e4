import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as of from '../../../src/net/wire/codec.ts';
import { WireError } from '../../../src/net/wire/errors.ts';

interface Item {
  readonly count: number;
  readonly label?: string;
  readonly size?: number;
  readonly colour?: 'red' | 'blue';
}

type Order = { readonly kind: 'all' } | { readonly kind: 'some' | 'none'; readonly at: number };

const item = of.struct<Item>({
  count: of.u16,
  label: of.optional(of.text(20)),
  size: of.absentAs(0, of.u64),
  colour: of.optionalWord(['red', 'blue'], 255),
});
const order = of.variant<Order, 'kind'>('kind', {
  all: {},
  some: { at: of.u32 },
  none: { at: of.u32 },
});

const items = fc.record(
  {
    count: fc.nat({ max: 0xffff }),
    label: fc.string({ unit: 'grapheme', maxLength: 2 }),
    size: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
    colour: fc.constantFrom('red', 'blue'),
  },
  { requiredKeys: ['count'], noNullPrototype: true },
);
const orders = fc.oneof(
  fc.constant({ kind: 'all' }),
  fc.record({ kind: fc.constantFrom('some', 'none'), at: fc.nat() }, { noNullPrototype: true }),
);
const octets = (maxLength: number) => fc.uint8Array({ maxLength });

/** A codec and values of it. */
const CASES: Readonly<Record<string, readonly [of.Codec<unknown>, fc.Arbitrary<unknown>]>> = {
  u8: [of.u8, fc.nat({ max: 0xff })],
  u16: [of.u16, fc.nat({ max: 0xffff })],
  u32: [of.u32, fc.nat({ max: 0xffff_ffff })],
  u64: [of.u64, fc.maxSafeNat()],
  flag: [of.flag, fc.boolean()],
  nothing: [of.nothing, fc.constant(undefined)],
  text: [of.text(400), fc.string({ unit: 'grapheme', maxLength: 10 })],
  raw: [of.raw(5), fc.uint8Array({ minLength: 5, maxLength: 5 })],
  bytes: [of.bytes(30), octets(30)],
  word: [of.word(['one', 'two']), fc.constantFrom('one', 'two')],
  optionalWord: [of.optionalWord(['one'], 7), fc.constantFrom('one', undefined)],
  optional: [of.optional(of.u32), fc.option(fc.nat(), { nil: undefined })],
  absentAs: [of.absentAs('', of.text(90)), fc.constantFrom('a', 'bc', undefined)],
  list: [of.list(of.u16, 9), fc.array(fc.nat({ max: 0xffff }), { maxLength: 9 })],
  'list behind a u8': [of.list(of.flag, 9, of.u8), fc.array(fc.boolean(), { maxLength: 9 })],
  cut: [of.cut(of.u8, 9), fc.array(fc.nat({ max: 0xff }), { maxLength: 9 })],
  struct: [item, items],
  'list of structs': [of.list(item, 4), fc.array(items, { maxLength: 4 })],
  variant: [order, orders],
  atMost: [of.atMost(9, of.u32), fc.nat({ max: 9 })],
} as never;

function errorOf(run: () => unknown): unknown {
  try {
    run();
  } catch (error) {
    if (error instanceof WireError) return error.detail;
    throw error;
  }
  return 'no error';
}

describe.each(Object.entries(CASES))('%s', (name, [codec, values]) => {
  const { encode, decode } = of.message(codec, { bytesMax: 500 });

  it(`${name} reads what it wrote, and refuses any part of it and any byte more`, () => {
    fc.assert(
      fc.property(values, (value) => {
        const bytes = encode(value);
        expect(decode(bytes)).toStrictEqual(value);
        for (let length = 0; length < bytes.length; length++) {
          const part = bytes.subarray(0, length);
          expect(errorOf(() => decode(part))).toEqual({ code: 'truncated' });
        }
        const more = errorOf(() => decode(new Uint8Array([...bytes, 0])));
        expect(more).toEqual({ code: 'trailing', byteCount: 1 });
      }),
    );
  });

  it(`${name} reads any bytes into what is written as the same bytes, or throws WireError`, () => {
    fc.assert(
      fc.property(octets(40), (bytes) => {
        let value: unknown;
        const error = errorOf(() => (value = decode(bytes)));
        if (error === 'no error') expect(encode(value)).toEqual(bytes);
      }),
      { numRuns: 500 },
    );
  });
});

describe('bounds', () => {
  const limit = (max: number, found = max + 1) => ({ code: 'limit', field: 'message', found, max });
  const value = { code: 'value', field: 'message' };

  /** Bytes that break a bound, and the error of reading them. */
  const wrong: Readonly<Record<string, readonly [of.Codec<unknown>, readonly number[], unknown]>> =
    {
      'a flag of 2': [of.flag, [2], value],
      'an integer of 2^53': [of.u64, [0, 0, 0, 0, 0, 0, 32, 0], value],
      'a text too long': [of.text(1), [2, 0, 65, 65], limit(1)],
      'a text that is not UTF-8': [of.text(9), [1, 0, 0xff], { code: 'utf8', field: 'message' }],
      'bytes too long': [of.bytes(1), [2, 0, 0, 0, 1, 2], limit(1)],
      'a length of 4 GiB': [of.bytes(9), [255, 255, 255, 255], limit(9, 0xffff_ffff)],
      'a word too far': [of.word(['one']), [1], value],
      'an optional word too far': [of.optionalWord(['one'], 255), [1], value],
      'a list too long': [of.list(of.u8, 1), [2, 0, 1, 2], limit(1)],
      'a list too long to be cut': [of.cut(of.u8, 1), [2, 0, 1, 2], limit(1)],
      'a number too large': [of.atMost(4, of.u8), [5], value],
      'a case too far': [order, [3], { code: 'value', field: 'kind' }],
      'a flag of 2 in a struct': [
        of.struct<{ on: boolean }>({ on: of.flag }),
        [2],
        { code: 'value', field: 'on' },
      ],
      'a message too long': [of.raw(11), Array(11).fill(0), limit(10)],
    } as never;
  it.each(Object.entries(wrong))(
    'message().decode() refuses %s',
    (_name, [codec, bytes, error]) => {
      const { decode } = of.message(codec, { bytesMax: 10 });
      expect(errorOf(() => decode(Uint8Array.from(bytes)))).toEqual(error);
    },
  );

  it('message().encode() refuses what is too long, and cut() leaves the rest out', () => {
    const encode = <T>(codec: of.Codec<T>, given: T) =>
      errorOf(() => of.message(codec, { bytesMax: 10 }).encode(given));
    expect(encode(of.text(3), 'äö')).toEqual(limit(3, 4));
    expect(encode(of.bytes(1), new Uint8Array(2))).toEqual(limit(1));
    expect(encode(of.list(of.u8, 1), [1, 2])).toEqual(limit(1));
    expect(encode(of.raw(11), new Uint8Array(11))).toEqual(limit(10));
    const cut = of.message(of.cut(of.u8, 2), { bytesMax: 10 });
    expect(cut.decode(cut.encode([1, 2, 3]))).toEqual([1, 2]);
  });

  it('bytes() reads into memory of its own', () => {
    const { encode, decode } = of.message(of.bytes(4), { bytesMax: 10 });
    const received = encode(new Uint8Array([1, 2]));
    const read = decode(received);
    received.fill(9);
    expect(read).toEqual(new Uint8Array([1, 2]));
  });
});
