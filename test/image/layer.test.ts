import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { memorySource } from '../../src/image/byte-source.ts';
import { rawCrc32c } from '../../src/image/checksum.ts';
import { ImageError } from '../../src/image/errors.ts';
import { IndexBudget } from '../../src/image/index-budget.ts';
import { openLayer } from '../../src/image/layer.ts';
import type { BytesAt } from '../../src/image/byte-source.ts';
import { LayeredImage } from '../../src/image/layered-image.ts';
import { verifyLayer } from '../../src/image/verify.ts';
import { bytesEqual } from '../../src/util/bytes.ts';
import { codec, makeLayer, sampleBytes } from '../kit/layers.ts';

const KIB = 1024;
const DEVICE = 512 * KIB;
const TAR_PREFIX = 1536;

/** A device in memory and its layer, with ranges of whole sectors. */
async function sampleLayer(init: {
  ranges: readonly (readonly [number, number])[];
  blockSizeBytes?: number;
  algorithm?: 'lz4' | 'zstd';
}): Promise<{ blob: Uint8Array; disk: Uint8Array }> {
  const disk = new Uint8Array(DEVICE);
  const ranges = init.ranges.map(([offset, length], i) => {
    const bytes = sampleBytes(length, i + 1);
    disk.set(bytes, offset);
    return { offset, bytes };
  });
  const options = {
    blockSizeBytes: init.blockSizeBytes ?? 4096,
    algorithm: init.algorithm ?? ('lz4' as const),
  };
  return { blob: await makeLayer({ virtualSizeBytes: DEVICE, ranges, options }), disk };
}

const RANGES = [
  [0, 4096],
  [8192, 66_048],
  [100 * KIB, 512],
  [300 * KIB, 212 * KIB],
] as const;

async function openImage(blob: Uint8Array): Promise<LayeredImage> {
  return new LayeredImage([await openLayer(memorySource(blob), codec)]);
}

describe('rawCrc32c()', () => {
  it('gives the checksums of overlaybd', () => {
    const text = new TextEncoder().encode('123456789');
    expect(rawCrc32c(codec, text, 0)).toBe(0x58e3fa20);
    expect(rawCrc32c(codec, text, 100_007)).toBe(0x3c9bd4e0);
    expect(rawCrc32c(codec, new Uint8Array(), 100_007)).toBe(0x000186a7);
  });
});

describe('LayerWriter and openLayer()', () => {
  const sizes = [4, 8, 16, 32].flatMap((kib) => [[kib, 'lz4'] as const, [kib, 'zstd'] as const]);
  it.each(sizes)('give back the device: blocks of %i KiB, %s', async (kib, algorithm) => {
    const blockSizeBytes = kib * KIB;
    const { blob, disk } = await sampleLayer({ ranges: RANGES, blockSizeBytes, algorithm });
    const image = await openImage(blob);
    expect(bytesEqual(await image.read(0, DEVICE), disk)).toBe(true);
    const { isCovered } = await verifyLayer(await openLayer(memorySource(blob), codec), codec);
    expect(isCovered).toBe(true);
  });

  it('give the same bytes for the same device', async () => {
    const [one, two] = [
      await sampleLayer({ ranges: RANGES }),
      await sampleLayer({ ranges: RANGES }),
    ];
    expect(bytesEqual(one.blob, two.blob)).toBe(true);
  });

  it('keep an empty device and incompressible data', async () => {
    const empty = await openImage(await makeLayer({ virtualSizeBytes: DEVICE, ranges: [] }));
    expect(bytesEqual(await empty.read(0, DEVICE), new Uint8Array(DEVICE))).toBe(true);
    const noise = new Uint8Array(64 * KIB);
    let state = 1;
    for (let i = 0; i < noise.length; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      noise[i] = state >>> 24;
    }
    const options = { blockSizeBytes: 32 * KIB, algorithm: 'lz4' as const };
    const ranges = [{ offset: 0, bytes: noise }];
    const blob = await makeLayer({ virtualSizeBytes: DEVICE, ranges, options });
    const image = await openImage(blob);
    expect(bytesEqual(await image.read(0, noise.length), noise)).toBe(true);
  });

  it('reads bare ZFile, bare LSMT and a plain tar as well', async () => {
    const { blob, disk } = await sampleLayer({ ranges: RANGES });
    const layer = await openLayer(memorySource(blob), codec);
    const zfile = blob.subarray(TAR_PREFIX, TAR_PREFIX + layer.payload.sizeBytes);
    const bare = await openLayer(memorySource(zfile), codec);
    const lsmt = new Uint8Array(bare.body.sizeBytes);
    expect(bare.body.readInto(lsmt, 0, (at, length) => zfile.subarray(at, at + length))).toBe(true);
    for (const bytes of [zfile, lsmt, plainTar(zfile), plainTar(lsmt)]) {
      const image = await openImage(bytes);
      expect(bytesEqual(await image.read(0, DEVICE), disk)).toBe(true);
    }
  });

  it('uses the trailer when bit 3 of the header is clear, and garbage where bit 4 is', async () => {
    const { blob, disk } = await sampleLayer({ ranges: RANGES });
    const old = blob.slice();
    const header = new DataView(old.buffer, TAR_PREFIX, 512);
    header.setUint32(32, 0x0f00_0003, true);
    for (const offset of [28, 40, 44, 48, 56, 64, 68, 80]) header.setUint32(offset, 0xdead, true);
    const { payload } = await openLayer(memorySource(blob), codec);
    const trailer = new DataView(old.buffer, TAR_PREFIX + payload.sizeBytes - 512, 512);
    trailer.setUint32(32, 0x0f00_0006, true);
    trailer.setUint32(28, 0xbad, true);
    trailer.setUint32(64, 0xbad, true);
    expect(bytesEqual(await (await openImage(old)).read(0, DEVICE), disk)).toBe(true);
  });
});

describe('IndexBudget', () => {
  it('bounds what the indices of all layers of an image take', async () => {
    const { blob } = await sampleLayer({ ranges: RANGES });
    const { body } = await openLayer(memorySource(blob), codec);
    const blocks = 'header' in body ? body.header.blockCount : 0;
    const open = async (budget: IndexBudget): Promise<void> => {
      for (let i = 0; i < 3; i++) await openLayer(memorySource(blob), codec, budget);
    };
    // An index is padded to 4,096 bytes of 16 each.
    const [entriesMax, blocksMax] = [3 * 256, 3 * blocks];
    await open(new IndexBudget({ entriesMax, blocksMax }));
    const fewer = [
      { entriesMax: entriesMax - 1, blocksMax },
      { entriesMax, blocksMax: blocksMax - 1 },
    ];
    for (const init of fewer) {
      await expect(open(new IndexBudget(init))).rejects.toMatchObject({ code: 'out-of-range' });
    }
  });
});

describe('LayeredImage', () => {
  it('read() gives any range of any stack, and readInto() the same from plan()', async () => {
    const layers = await Promise.all([
      sampleLayer({ ranges: RANGES }),
      sampleLayer({
        ranges: [
          [4096, 8192],
          [290 * KIB, 20_480],
        ],
        blockSizeBytes: 32 * KIB,
      }),
      sampleLayer({
        ranges: [
          [512, 1024],
          [66_048, 512],
        ],
        algorithm: 'zstd',
        blockSizeBytes: 8192,
      }),
    ]);
    const disk = new Uint8Array(DEVICE);
    const ranges = [
      RANGES,
      [
        [4096, 8192],
        [290 * KIB, 20_480],
      ],
      [
        [512, 1024],
        [66_048, 512],
      ],
    ];
    layers.forEach((layer, i) => {
      for (const [offset = 0, length = 0] of ranges[i] ?? []) {
        disk.set(layer.disk.subarray(offset, offset + length), offset);
      }
    });
    const sources = layers.map((layer) => memorySource(layer.blob));
    const opened = await Promise.all(sources.map((source) => openLayer(source, codec)));
    const image = new LayeredImage(opened, { decodedBytesMax: 64 * KIB });
    await fc.assert(
      fc.asyncProperty(fc.nat(DEVICE - 1), fc.nat(70_000), async (offset, wish) => {
        const length = Math.min(wish, DEVICE - offset);
        const expected = disk.subarray(offset, offset + length);
        expect(bytesEqual(await image.read(offset, length), expected)).toBe(true);
        const planned = image.plan(offset, length);
        const bytesOf = layers.map(
          ({ blob }, layer): BytesAt =>
            (at, count) => {
              const within = planned.some(
                (range) =>
                  range.layer === layer &&
                  range.offset <= at &&
                  at + count <= range.offset + range.length,
              );
              return within ? blob.subarray(at, at + count) : undefined;
            },
        );
        const target = new Uint8Array(length).fill(0xaa);
        expect(image.readInto(target, offset, bytesOf)).toBe(true);
        expect(bytesEqual(target, expected)).toBe(true);
        const covered = image.segmentsIn(offset, length).reduce((sum, one) => sum + one.length, 0);
        expect(covered).toBe(length);
      }),
    );
  });

  it('extentsIn() tells data from zeros in any range, as many extents as are wanted', async () => {
    const image = await openImage((await sampleLayer({ ranges: RANGES })).blob);
    const isZeroAt = (at: number): boolean =>
      !RANGES.some(([offset, length]) => at >= offset && at < offset + length);
    fc.assert(
      fc.property(
        fc.nat(DEVICE - 1),
        fc.integer({ min: 1, max: DEVICE }),
        fc.integer({ min: 1, max: 9 }),
        (offset, wish, countMax) => {
          const length = Math.min(wish, DEVICE - offset);
          const extents = image.extentsIn(offset, length, countMax);
          let at = offset;
          for (const [i, extent] of extents.entries()) {
            expect(extent.length).toBeGreaterThan(0);
            expect(isZeroAt(at)).toBe(extent.isZero);
            expect(isZeroAt(at + extent.length - 1)).toBe(extent.isZero);
            if (i > 0) expect(extents[i - 1]?.isZero).toBe(!extent.isZero);
            at += extent.length;
          }
          expect(extents.length).toBeLessThanOrEqual(countMax);
          if (extents.length < countMax) expect(at).toBe(offset + length);
          else expect(at).toBeLessThanOrEqual(offset + length);
        },
      ),
    );
  });

  it('readInto() returns false when bytes are missing, and uses cached blocks', async () => {
    const { blob, disk } = await sampleLayer({ ranges: RANGES, blockSizeBytes: 32 * KIB });
    const image = await openImage(blob);
    const target = new Uint8Array(4096);
    expect(image.readInto(target, 8192, [() => undefined])).toBe(false);
    const reads: number[] = [];
    const bytesOf: BytesAt = (at, count) => {
      reads.push(at);
      return blob.subarray(at, at + count);
    };
    for (const offset of [8192, 12_288, 16_384]) {
      expect(image.readInto(target, offset, [bytesOf])).toBe(true);
      expect(bytesEqual(target, disk.subarray(offset, offset + 4096))).toBe(true);
    }
    expect(reads).toHaveLength(1);
  });

  it('the constructor rejects layers without any size', () => {
    expect(() => new LayeredImage([])).toThrow(ImageError);
  });
});

/** A handmade plain ustar around one file. */
function plainTar(file: Uint8Array): Uint8Array {
  const tar = Buffer.alloc(512 + Math.ceil(file.length / 512) * 512 + 1024);
  tar.write('layer', 0);
  tar.write(file.length.toString(8).padStart(11, '0'), 124);
  tar.write('0', 156);
  tar.write('ustar\x0000', 257);
  tar.write('        ', 148);
  const sum = tar.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  tar.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  tar.set(file, 512);
  return tar;
}
