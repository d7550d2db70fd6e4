import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ImageDisk } from '../../src/device/image-disk.ts';
import { codec, makeLayer, sampleBytes } from '../kit/layers.ts';
import { imageOf, MemoryReader } from './kit/images.ts';

const SIZE = 2 * 1024 * 1024;

/**
 * Two layers, of which the upper covers parts of the lower, and the bytes that they make together.
 */
async function twoLayers(): Promise<{
  reader: MemoryReader;
  layers: Uint8Array[];
  whole: Uint8Array;
}> {
  const lower = sampleBytes(SIZE - 65536, 1);
  const upper = sampleBytes(400_384, 2);
  const whole = new Uint8Array(SIZE);
  whole.set(lower, 0);
  whole.set(upper, 99_840);
  const layers = [
    await makeLayer({ virtualSizeBytes: SIZE, ranges: [{ offset: 0, bytes: lower }] }),
    await makeLayer({ virtualSizeBytes: SIZE, ranges: [{ offset: 99_840, bytes: upper }] }),
  ];
  return { reader: new MemoryReader(), layers, whole };
}

async function openDisk(reader: MemoryReader, layers: readonly Uint8Array[]): Promise<ImageDisk> {
  const image = imageOf(layers.map((layer) => reader.add(layer)));
  return ImageDisk.open({ reader, codec }, image.manifest);
}

describe('ImageDisk', () => {
  it('reads the bytes that the layers make together, cold and warm', async () => {
    const { reader, layers, whole } = await twoLayers();
    const disk = await openDisk(reader, layers);
    expect(disk.sizeBytes).toBe(SIZE);
    const range = fc
      .tuple(fc.nat(SIZE - 1), fc.integer({ min: 1, max: 300_000 }))
      .map(([offset, length]) => ({ offset, length: Math.min(length, SIZE - offset) }));
    await fc.assert(
      fc.asyncProperty(range, fc.boolean(), async ({ offset, length }, isWarm) => {
        reader.isWarm = isWarm;
        const target = new Uint8Array(length).fill(1);
        const isServed = disk.readSync(target, offset);
        if (isWarm) expect(isServed).toBe(true);
        if (!isServed) await disk.read(target, offset);
        expect(Buffer.compare(target, whole.subarray(offset, offset + length))).toBe(0);
      }),
      { numRuns: 60 },
    );
  });

  it('rejects only a read whose bytes cannot be fetched', async () => {
    const { reader, layers, whole } = await twoLayers();
    const disk = await openDisk(reader, layers);
    reader.gate = (_, offset) =>
      offset > 300_000 ? Promise.reject(new Error('all sources failed')) : Promise.resolve();
    await expect(disk.read(new Uint8Array(4096), SIZE - 131_072)).rejects.toThrow('all sources');
    const target = new Uint8Array(4096);
    await disk.read(target, 0);
    expect(Buffer.compare(target, whole.subarray(0, 4096))).toBe(0);
  });

  it('throws for a block that is damaged', async () => {
    const { reader, layers } = await twoLayers();
    const [lower, upper] = layers as [Uint8Array, Uint8Array];
    lower[900_000] = (lower[900_000] ?? 0) ^ 1;
    const disk = await openDisk(reader, [lower, upper]);
    await expect(disk.read(new Uint8Array(SIZE), 0)).rejects.toThrow(/damaged/);
  });

  it('close() fails the reads in flight', async () => {
    const { reader, layers } = await twoLayers();
    const disk = await openDisk(reader, layers);
    reader.gate = () => new Promise(() => {});
    const read = disk.read(new Uint8Array(4096), 0);
    disk.close();
    await expect(read).rejects.toThrow('closed');
  });

  it('open() stops opening the other layers when one fails', async () => {
    const { reader, layers } = await twoLayers();
    const good = reader.add(layers[0] as Uint8Array);
    const bad = reader.add(sampleBytes(100_000, 9));
    reader.gate = (blob) =>
      blob.digest === good.digest ? new Promise(() => {}) : Promise.resolve();
    const { manifest } = imageOf([good, bad]);
    await expect(ImageDisk.open({ reader, codec }, manifest)).rejects.toThrow(/not a block layer/);
  });
});
