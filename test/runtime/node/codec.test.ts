import { generateKeyPairSync, sign } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NodeCodec } from '../../../src/runtime/node/codec.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { bytesEqual, toHex } from '../../../src/util/bytes.ts';

const codec = new NodeCodec();
const hash = new NodeHash();
const text = (value: string): Uint8Array => new TextEncoder().encode(value);

describe('NodeCodec', () => {
  it('lz4Decode() and zstdDecode() give back what was encoded', () => {
    const bytes = fc.oneof(
      fc.uint8Array({ minLength: 1, maxLength: 5000 }),
      fc.tuple(fc.nat(255), fc.integer({ min: 1, max: 65536 })).map(([value, length]) => {
        return new Uint8Array(length).fill(value);
      }),
    );
    fc.assert(
      fc.property(bytes, (data) => {
        expect(bytesEqual(codec.lz4Decode(codec.lz4Encode(data), data.length), data)).toBe(true);
        expect(bytesEqual(codec.zstdDecode(codec.zstdEncode(data), data.length), data)).toBe(true);
      }),
      { numRuns: 100 },
    );
  });

  it('lz4Decode() leaves the memory around its input alone', () => {
    const encoded = codec.lz4Encode(new Uint8Array(4096).fill(7));
    const memory = new Uint8Array(encoded.length + 16).fill(0xee);
    memory.set(encoded, 8);
    const before = memory.slice();
    codec.lz4Decode(memory.subarray(8, 8 + encoded.length), 4096);
    expect(memory).toEqual(before);
  });

  it.each([4095, 4097])('lz4Decode() and zstdDecode() reject 4096 bytes read as %i', (size) => {
    const data = new Uint8Array(4096).fill(7);
    expect(() => codec.lz4Decode(codec.lz4Encode(data), size)).toThrow();
    expect(() => codec.zstdDecode(codec.zstdEncode(data), size)).toThrow();
  });

  it('lz4Decode() and zstdDecode() reject truncated input and absurd sizes', () => {
    const data = Uint8Array.from({ length: 4096 }, (_, i) => (i * i) >> 3);
    const [lz4, zstd] = [codec.lz4Encode(data), codec.zstdEncode(data)];
    expect(() => codec.lz4Decode(lz4.subarray(0, lz4.length - 9), 4096)).toThrow();
    expect(() => codec.zstdDecode(zstd.subarray(0, zstd.length - 9), 4096)).toThrow();
    expect(() => codec.lz4Decode(lz4, 2 ** 31)).toThrow(RangeError);
    expect(() => codec.zstdDecode(zstd, 2 ** 31)).toThrow(RangeError);
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
