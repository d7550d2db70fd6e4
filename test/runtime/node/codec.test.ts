import { generateKeyPairSync, sign } from 'node:crypto';
import fc from 'fast-check';
import { uncompressSync } from 'lz4-napi';
import { describe, expect, it } from 'vitest';
import { NodeCodec } from '../../../src/runtime/node/codec.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { bytesEqual, toHex } from '../../../src/util/bytes.ts';

const codec = new NodeCodec();
const hash = new NodeHash();
const text = (value: string): Uint8Array => new TextEncoder().encode(value);

/** What the codec decodes to a target of this size. */
function decoded(name: 'lz4' | 'zstd', source: Uint8Array, sizeBytes: number): Uint8Array {
  const target = new Uint8Array(sizeBytes);
  if (name === 'lz4') codec.lz4Decode(source, target);
  else codec.zstdDecode(source, target);
  return target;
}

/** Bytes with matches near and far, of which many overlap what they make. */
const samples = fc.oneof(
  fc.uint8Array({ minLength: 1, maxLength: 5000 }),
  fc.tuple(fc.nat(255), fc.integer({ min: 1, max: 65536 })).map(([value, length]) => {
    return new Uint8Array(length).fill(value);
  }),
  fc
    .tuple(fc.uint8Array({ minLength: 1, maxLength: 40 }), fc.integer({ min: 1, max: 65536 }))
    .map(([period, length]) => {
      return Uint8Array.from({ length }, (_, i) => (period[i % period.length] ?? 0) + (i >> 10));
    }),
);

describe('NodeCodec', () => {
  it('lz4Decode() and zstdDecode() give back what was encoded', () => {
    fc.assert(
      fc.property(samples, (data) => {
        const [lz4, zstd] = [codec.lz4Encode(data), codec.zstdEncode(data)];
        expect(bytesEqual(decoded('lz4', lz4, data.length), data)).toBe(true);
        expect(bytesEqual(decoded('zstd', zstd, data.length), data)).toBe(true);
      }),
      { numRuns: 200 },
    );
  });

  it('lz4Decode() gives back blocks above the size of its own decoder', () => {
    const data = Uint8Array.from({ length: 1024 * 1024 }, (_, i) => (i * i) >> 9);
    expect(bytesEqual(decoded('lz4', codec.lz4Encode(data), data.length), data)).toBe(true);
  });

  it('lz4Decode() takes what lz4-napi takes of damaged input, and decodes it alike', () => {
    const flips = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(samples, flips, (data, changes) => {
        const source = Uint8Array.from(codec.lz4Encode(data));
        for (const [at, value] of changes) source[at % source.length] = value;
        const framed = Buffer.alloc(4 + source.length);
        framed.writeUInt32LE(data.length, 0);
        framed.set(source, 4);
        let expected: Uint8Array | undefined;
        try {
          expected = uncompressSync(framed);
        } catch {
          expected = undefined;
        }
        if (expected?.length !== data.length) {
          expect(() => decoded('lz4', source, data.length)).toThrow(RangeError);
        } else {
          expect(bytesEqual(decoded('lz4', source, data.length), expected)).toBe(true);
        }
      }),
      { numRuns: 500 },
    );
  });

  it('lz4Decode() leaves the memory around its input and its target alone', () => {
    const encoded = codec.lz4Encode(new Uint8Array(4096).fill(7));
    const memory = new Uint8Array(encoded.length + 16).fill(0xee);
    memory.set(encoded, 8);
    const before = memory.slice();
    const target = new Uint8Array(4096 + 16).fill(0xee);
    codec.lz4Decode(memory.subarray(8, 8 + encoded.length), target.subarray(8, 8 + 4096));
    expect(memory).toEqual(before);
    expect(target.subarray(0, 8)).toEqual(before.subarray(0, 8));
    expect(target.subarray(8 + 4096)).toEqual(before.subarray(0, 8));
    expect(bytesEqual(target.subarray(8, 8 + 4096), new Uint8Array(4096).fill(7))).toBe(true);
  });

  it.each([4095, 4097])('lz4Decode() and zstdDecode() reject 4096 bytes read as %i', (size) => {
    const data = new Uint8Array(4096).fill(7);
    expect(() => decoded('lz4', codec.lz4Encode(data), size)).toThrow();
    expect(() => decoded('zstd', codec.zstdEncode(data), size)).toThrow();
  });

  it('lz4Decode() and zstdDecode() reject truncated input and absurd sizes', () => {
    const data = Uint8Array.from({ length: 4096 }, (_, i) => (i * i) >> 3);
    const [lz4, zstd] = [codec.lz4Encode(data), codec.zstdEncode(data)];
    expect(() => decoded('lz4', lz4.subarray(0, lz4.length - 9), 4096)).toThrow();
    expect(() => decoded('zstd', zstd.subarray(0, zstd.length - 9), 4096)).toThrow();
    expect(() => decoded('lz4', new Uint8Array(), 4096)).toThrow();
    expect(() => decoded('lz4', lz4, 2 ** 24 + 1)).toThrow(RangeError);
    expect(() => decoded('zstd', zstd, 2 ** 24 + 1)).toThrow(RangeError);
  });

  it('crc32c() is the standard CRC-32C, and continues from an earlier one', () => {
    expect(codec.crc32c(text('123456789'))).toBe(0xe3069283);
    expect(codec.crc32c(text('6789'), codec.crc32c(text('12345')))).toBe(0xe3069283);
  });
});

describe('NodeHash', () => {
  it('sha256(), sha256Stream() and blake3() give the published digests', () => {
    const abc = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad';
    expect(toHex(hash.sha256(text('abc')))).toBe(abc);
    const stream = hash.sha256Stream();
    stream.update(text('a'));
    stream.update(text('bc'));
    expect(toHex(stream.digest())).toBe(abc);
    const empty = 'af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262';
    expect(toHex(hash.blake3(new Uint8Array()))).toBe(empty);
  });

  it('ed25519Verify() accepts only the signature of this message by this key', () => {
    const { publicKey, privateKey } = generateKeyPairSync('ed25519');
    const raw = publicKey.export({ format: 'der', type: 'spki' }).subarray(-32);
    const signature = sign(null, text('message'), privateKey);
    expect(hash.ed25519Verify(raw, text('message'), signature)).toBe(true);
    expect(hash.ed25519Verify(raw, text('massage'), signature)).toBe(false);
    expect(hash.ed25519Verify(raw, text('message'), signature.subarray(1))).toBe(false);
    expect(hash.ed25519Verify(raw.subarray(1), text('message'), signature)).toBe(false);
    expect(hash.ed25519Verify(new Uint8Array(32).fill(0xff), text('message'), signature)).toBe(
      false,
    );
  });
});
