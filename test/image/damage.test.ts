import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { memorySource } from '../../src/image/byte-source.ts';
import { BLOCK_CRC_SEED, rawCrc32c } from '../../src/image/checksum.ts';
import { ImageError } from '../../src/image/errors.ts';
import { encodeJumpTable } from '../../src/image/jump-table.ts';
import { openLayer } from '../../src/image/layer.ts';
import { LayeredImage } from '../../src/image/layered-image.ts';
import { encodeTrace, parseTrace } from '../../src/image/trace.ts';
import { verifyLayer } from '../../src/image/verify.ts';
import { encodeZFileHeader } from '../../src/image/zfile-header.ts';
import { bytesEqual } from '../../src/util/bytes.ts';
import { codec, makeLayer, sampleBytes } from '../kit/layers.ts';
import { describeWith, FIXTURES, needs } from '../kit/requires.ts';

const KIB = 1024;
const DEVICE = 256 * KIB;
const TAR_PREFIX = 1536;
const LSMT_MAGIC = Buffer.from('4c534d5400010200657e63d29444084ca2d2c8ec4fcfae8a', 'hex');
/** Compared bytes of the device. */
const WINDOW = 2 * KIB * KIB;

async function contentOf(blob: Uint8Array): Promise<Uint8Array> {
  const image = new LayeredImage([await openLayer(memorySource(blob), codec)]);
  return image.read(0, Math.min(WINDOW, image.sizeBytes));
}

/**
 * Expects that a read of the blob gives the sound content or an ImageError, and no other bytes or
 * errors.
 */
async function expectSoundOrError(blob: Uint8Array, sound: Uint8Array): Promise<'sound' | 'error'> {
  try {
    expect(bytesEqual(await contentOf(blob), sound)).toBe(true);
    return 'sound';
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    return 'error';
  }
}

const flips = fc.array(fc.tuple(fc.double({ min: 0, max: 1, noNaN: true }), fc.nat(7)), {
  minLength: 1,
  maxLength: 3,
});

function flipped(blob: Uint8Array, where: readonly (readonly [number, number])[]): Uint8Array {
  const copy = blob.slice();
  for (const [fraction, bit] of where) {
    const at = Math.min(copy.length - 1, Math.floor(fraction * copy.length));
    copy[at] = (copy[at] ?? 0) ^ (1 << bit);
  }
  return copy;
}

describe('a damaged layer', () => {
  let blob: Uint8Array;
  let sound: Uint8Array;
  beforeAll(async () => {
    const ranges = [0, 96 * KIB].map((offset, i) => ({
      offset,
      bytes: sampleBytes(64 * KIB, i + 1),
    }));
    blob = await makeLayer({ virtualSizeBytes: DEVICE, ranges });
    sound = await contentOf(blob);
  });

  it('openLayer() and read() survive any flipped bits', async () => {
    await fc.assert(
      fc.asyncProperty(flips, async (where) => {
        await expectSoundOrError(flipped(blob, where), sound);
      }),
      { numRuns: 400 },
    );
  });

  it('openLayer() and read() notice each flipped bit of headers, table and index', async () => {
    const { payload, body } = await openLayer(memorySource(blob), codec);
    const table = payload.offset + (body.kind === 'zfile' ? body.header.indexOffset : 0);
    const header = Array.from({ length: 96 }, (_, i) => payload.offset + i);
    const tail = Array.from({ length: 300 }, (_, i) => table - 200 + i);
    const covered = [...header.slice(0, 24), ...header.slice(40), ...tail];
    for (const at of covered) {
      const bad = blob.slice();
      bad[at] = (bad[at] ?? 0) ^ 0x10;
      expect(await expectSoundOrError(bad, sound), `byte ${at}`).toBe('error');
    }
  });

  it('openLayer() and read() survive an end of the blob at any byte', async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(blob.length - 1), async (length) => {
        await expectSoundOrError(blob.slice(0, length), sound);
      }),
      { numRuns: 300 },
    );
  });

  it('openLayer() rejects random bytes behind the right magic numbers', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ minLength: 600, maxLength: 9000 }),
        fc.nat(2),
        async (noise, kind) => {
          const bytes = noise.slice();
          bytes.set(
            [blob.subarray(0, 512), blob.subarray(TAR_PREFIX, TAR_PREFIX + 24), LSMT_MAGIC][kind] ??
              [],
          );
          await expect(openLayer(memorySource(bytes), codec)).rejects.toThrow(ImageError);
        },
      ),
      { numRuns: 200 },
    );
  });

  it.each([
    ['more bytes than a layer has', { sizeBytes: 2 ** 45 }],
    ['a jump table of petabytes', { sizeBytes: 2 ** 40, blockCount: 2 ** 28 }],
    ['more blocks than bytes', { blockCount: 12_345 }],
    ['a jump table after the end', { indexOffset: 2 ** 40 }],
    ['a jump table in the header', { indexOffset: 100 }],
    ['blocks of 3 KiB', { blockSizeBytes: 3072 }],
    ['blocks of 1 GiB', { blockSizeBytes: 2 ** 30 }],
  ])('openLayer() rejects a ZFile that claims %s', async (_, change) => {
    const { body } = await openLayer(memorySource(blob), codec);
    if (body.kind !== 'zfile') throw new Error('the sample is compressed');
    const { indexOffset, blockCount, sizeBytes, blockSizeBytes, algorithm } = body.header;
    const usual = { indexOffset, blockCount, sizeBytes, blockSizeBytes, algorithm };
    const bad = blob.slice();
    const header = encodeZFileHeader({ ...usual, indexCrc: 0, ...change }, 'header', codec);
    bad.set(header, TAR_PREFIX);
    const opened = openLayer(memorySource(bad), codec);
    await expect(opened).rejects.toMatchObject({ code: 'out-of-range' });
  });

  it.each([
    ['nothing', new Uint8Array(), 'neither'],
    ['one byte', Uint8Array.of(1), 'neither'],
    ['gzip', Uint8Array.of(0x1f, 0x8b, 8, 0), 'ordinary OCI layer'],
    ['text', new TextEncoder().encode('{"errors": []}'.padEnd(9000)), 'neither'],
  ])('openLayer() names the problem of %s', async (_, bytes, text) => {
    await expect(openLayer(memorySource(bytes), codec)).rejects.toThrow(text);
  });

  it('verifyLayer() names the block that is damaged', async () => {
    const bad = flipped(blob, [[(TAR_PREFIX + 512 + 9000) / blob.length, 3]]);
    const layer = await openLayer(memorySource(bad), codec);
    await expect(verifyLayer(layer, codec)).rejects.toThrow(/ZFile block [0-9]+ at byte [0-9]+/);
  });

  it('parseTrace() gives an ImageError or the right accesses for any flipped bits', () => {
    const accesses = [0, 1, 2, 3].map((i) => {
      return { op: 'read' as const, layer: i, offset: i * 4096, length: 8192 };
    });
    const trace = encodeTrace(accesses, codec);
    fc.assert(
      fc.property(flips, fc.nat(trace.length), (where, length) => {
        for (const bytes of [flipped(trace, where), trace.slice(0, length)]) {
          try {
            expect(parseTrace(bytes, codec)).toEqual(accesses);
          } catch (error) {
            if (!(error instanceof ImageError)) throw error;
          }
        }
      }),
    );
  });
});

describe('a ZFile of 64 KiB blocks', () => {
  it('openLayer() reads it, although ZFileWriter does not write it', async () => {
    const ranges = [{ offset: 4096, bytes: sampleBytes(150 * KIB, 5) }];
    const small = await makeLayer({ virtualSizeBytes: DEVICE, ranges });
    const layer = await openLayer(memorySource(small), codec);
    const lsmt = new Uint8Array(layer.body.sizeBytes);
    layer.body.readInto(lsmt, 0, (at, length) => small.subarray(at, at + length));
    const big = zfileOf(lsmt, 64 * KIB);
    expect(bytesEqual(await contentOf(big), await contentOf(small))).toBe(true);
  });
});

/** A handmade LZ4 ZFile with blocks of any size. */
function zfileOf(bytes: Uint8Array, blockSizeBytes: number): Uint8Array {
  const parts: Uint8Array[] = [];
  const lengths: number[] = [];
  for (let at = 0; at < bytes.length; at += blockSizeBytes) {
    const stored = codec.lz4Encode(bytes.subarray(at, at + blockSizeBytes));
    const crc = new Uint8Array(Uint32Array.of(rawCrc32c(codec, stored, BLOCK_CRC_SEED)).buffer);
    parts.push(stored, crc);
    lengths.push(stored.length + 4);
  }
  const table = encodeJumpTable(Uint32Array.from(lengths), codec);
  const indexOffset = 512 + lengths.reduce((sum, length) => sum + length, 0);
  const blockCount = lengths.length;
  const common = { sizeBytes: bytes.length, indexCrc: table.crc, algorithm: 'lz4' as const };
  const geometry = { ...common, indexOffset, blockCount, blockSizeBytes };
  const [header, trailer] = [
    encodeZFileHeader(geometry, 'header', codec),
    encodeZFileHeader(geometry, 'trailer', codec),
  ];
  return Buffer.concat([header, ...parts, table.bytes, trailer]);
}

describeWith('damaged fixtures', [needs.fixtures], () => {
  const names = [
    'layers/layer2.overlaybd.commit',
    'variants/layer0.lz4_32k.tar.commit',
    'variants/layer0.lz4_4k_mp.zfile.commit',
    'variants/layer0.zstd16k.tar.commit',
  ];
  it.each(names)(
    'openLayer() and read() of %s give an ImageError or the right bytes',
    async (name) => {
      const blob = new Uint8Array(readFileSync(join(FIXTURES, name)));
      const sound = await contentOf(blob);
      const cut = fc.double({ min: 0, max: 1, noNaN: true });
      await fc.assert(
        fc.asyncProperty(flips, cut, async (where, fraction) => {
          await expectSoundOrError(flipped(blob, where), sound);
          await expectSoundOrError(blob.slice(0, Math.floor(fraction * blob.length)), sound);
        }),
        { numRuns: 40 },
      );
    },
  );
});
