import { writeFileSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { makeAccelerationLayer } from '../../src/convert/acceleration-layer.ts';
import {
  findBlockImage,
  layerSource,
  readConfig,
  readShippedTrace,
  type BlockImage,
} from '../../src/convert/block-image.ts';
import { encodeBlockImage, withAcceleration } from '../../src/convert/block-manifest.ts';
import { CheckedLayers } from '../../src/convert/checked-layers.ts';
import { flattenImage } from '../../src/convert/flatten.ts';
import { digestsOf } from '../../src/convert/layer-blob.ts';
import { blobPath, prepareLayout, putBlob, tagManifest } from '../../src/convert/oci-layout.ts';
import { LayoutPlace } from '../../src/convert/places/layout-place.ts';
import type { ImagePlace } from '../../src/convert/places/place.ts';
import { shipTrace } from '../../src/convert/ship-trace.ts';
import { BLOCK_SIZE_BYTES } from '../../src/image/block.ts';
import { BlockDigests, withoutDigests } from '../../src/image/block-digests.ts';
import { memorySource } from '../../src/image/byte-source.ts';
import { openLayer } from '../../src/image/layer.ts';
import { blockLayers, OVERLAYBD_ANNOTATION } from '../../src/image/manifest.ts';
import { encodeTrace } from '../../src/image/trace.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { bytesEqual, MIB } from '../../src/util/bytes.ts';
import { codec, makeLayer, sampleBytes } from '../kit/layers.ts';
import { putLayout } from '../kit/oci-layout.ts';
import { digestOf } from '../kit/registry-content.ts';
import { tempFolder } from '../kit/temp-folder.ts';

const parts = { codec, hash: new NodeHash() };
const { signal } = new AbortController();
const SIZE = 1024 * 1024;

/** A block image of two layers in a layout of its own, as tag `a`. */
async function makeImage({
  withDigests,
  deviceBytes = SIZE,
  dataBytes = 600_064,
}: {
  readonly withDigests: boolean;
  readonly deviceBytes?: number;
  /** Of each layer. */
  readonly dataBytes?: number;
}) {
  const directory = join(tempFolder(), 'layout');
  const blobs = await Promise.all(
    [1, 2].map((seed) =>
      makeLayer({
        virtualSizeBytes: deviceBytes,
        ranges: [{ offset: seed * 4096, bytes: sampleBytes(dataBytes, seed) }],
      }),
    ),
  );
  const written = await Promise.all(
    blobs.map(async (bytes) => {
      const layer = { digest: digestOf(bytes), sizeBytes: bytes.length };
      const { blockDigests } = await digestsOf(parts.hash, memorySource(bytes), {});
      return { layer, blockDigests: BlockDigests.make(layer, blockDigests) };
    }),
  );
  const acceleration = makeAccelerationLayer(parts, { layers: written });
  const encoded = encodeBlockImage(parts.hash, {
    config: { os: 'linux', architecture: 'amd64', config: { Cmd: ['a'] } },
    layers: written.map(({ layer }) => ({ layer, chainId: undefined })),
    acceleration,
    deviceBytes,
    annotations: { about: 'it' },
  });
  await prepareLayout(directory);
  for (const bytes of [...blobs, acceleration.bytes, encoded.config.bytes]) {
    await putBlob(directory, digestOf(bytes), bytes);
  }
  let { bytes } = encoded.manifest;
  if (!withDigests) {
    const json = JSON.parse(new TextDecoder().decode(bytes)) as {
      layers: { annotations: Record<string, string> }[];
    };
    const layers = json.layers
      .slice(0, 2)
      .map((layer) => ({ ...layer, annotations: withoutDigests(layer.annotations) }));
    bytes = new TextEncoder().encode(JSON.stringify({ ...json, layers }));
  }
  const digest = digestOf(bytes);
  await putBlob(directory, digest, bytes);
  await tagManifest({ directory, tag: 'a' }, { digest, size: bytes.length });
  const open = (tag: string) =>
    findBlockImage(new LayoutPlace(parts, `oci:${directory}:${tag}`), {
      platform: undefined,
      signal,
    });
  return { directory, blobs, digest, open, image: await open('a') };
}

describe('CheckedLayers', () => {
  it.each([true, false])('reads parts of layers, with digests shipped: %s', async (withDigests) => {
    const { image, blobs } = await makeImage({ withDigests });
    const folder = tempFolder();
    const layers = await CheckedLayers.open(parts, image, { folder, signal });
    // What was fetched goes with the process.
    expect(readdirSync(folder)).toEqual([]);
    for (const [i, blob] of blockLayers(image.manifest).entries()) {
      const bytes = blobs[i] ?? new Uint8Array(0);
      for (const [offset, length] of [
        [0, 100],
        [262_100, 200],
        [0, blob.sizeBytes],
        [blob.sizeBytes, 0],
      ] as const) {
        const part = await layers.read(blob, offset, length);
        expect(bytesEqual(part, bytes.subarray(offset, offset + length))).toBe(true);
      }
      expect(bytesEqual(layers.readCached(blob, 5, 10)!, bytes.subarray(5, 15))).toBe(true);
      expect(layers.readCached(blob, 262_100, 200)).toBeUndefined();
    }
    await layers.close();
  });

  it('finds a changed byte in what is read, and in nothing else', async () => {
    const { image, directory, blobs } = await makeImage({ withDigests: true });
    const [blob] = blockLayers(image.manifest);
    const path = blobPath(directory, blob!.digest);
    const bytes = readFileSync(path);
    bytes[300_000]! ^= 1;
    writeFileSync(path, bytes);
    const layers = await CheckedLayers.open(parts, image, { folder: tempFolder(), signal });
    const start = await layers.read(blob!, 0, 1000);
    expect(bytesEqual(start, blobs[0]!.subarray(0, 1000))).toBe(true);
    await expect(layers.read(blob!, 262_000, 1000)).rejects.toMatchObject({ code: 'damaged' });
  });

  it('finds a changed byte of an image without digests at once', async () => {
    const { image, directory } = await makeImage({ withDigests: false });
    const path = blobPath(directory, blockLayers(image.manifest)[1]!.digest);
    const bytes = readFileSync(path);
    bytes[300_000]! ^= 1;
    writeFileSync(path, bytes);
    const opened = CheckedLayers.open(parts, image, { folder: tempFolder(), signal });
    await expect(opened).rejects.toMatchObject({ code: 'digest-mismatch' });
  });
});

/** The image, and each read of a part of it: offset and length in blocks. */
function counted(image: BlockImage) {
  const reads: (readonly [first: number, count: number])[] = [];
  const { place } = image;
  const readPart: ImagePlace['readPart'] = (blob, range, end) => {
    const { offset, length } = range;
    if (blob.digest === blockLayers(image.manifest)[0]?.digest) {
      reads.push([offset / BLOCK_SIZE_BYTES, Math.ceil(length / BLOCK_SIZE_BYTES)]);
    }
    return place.readPart(blob, range, end);
  };
  const watched: ImagePlace = Object.assign(Object.create(place) as ImagePlace, { readPart });
  return { image: { ...image, place: watched }, reads };
}

describe('CheckedLayers, asked for adjacent blocks,', () => {
  const LARGE = { withDigests: true, deviceBytes: 16 * MIB, dataBytes: 12 * MIB };

  it('reads ever more of them at a time for who reads in order', async () => {
    const { image, blobs } = await makeImage(LARGE);
    const large = counted(image);
    const layers = await CheckedLayers.open(parts, large.image, { folder: tempFolder(), signal });
    const [blob] = blockLayers(image.manifest);
    const found: Uint8Array[] = [];
    for (let offset = 0; offset < blob!.sizeBytes; offset += 100_000) {
      found.push(await layers.read(blob!, offset, Math.min(100_000, blob!.sizeBytes - offset)));
    }
    expect(bytesEqual(Buffer.concat(found), blobs[0]!)).toBe(true);
    const counts = large.reads.map(([, count]) => count);
    expect(counts).toEqual([1, 1, 2, 4, 8, 14]);
  });

  it('reads the blocks of one range at once, and none twice', async () => {
    const { image } = await makeImage(LARGE);
    const large = counted(image);
    const layers = await CheckedLayers.open(parts, large.image, { folder: tempFolder(), signal });
    const [blob] = blockLayers(image.manifest);
    await layers.read(blob!, 5 * BLOCK_SIZE_BYTES + 1, 10);
    await layers.read(blob!, 30 * BLOCK_SIZE_BYTES - 1, 1);
    await Promise.all([
      layers.read(blob!, 2 * BLOCK_SIZE_BYTES, 10 * BLOCK_SIZE_BYTES),
      layers.read(blob!, 10 * BLOCK_SIZE_BYTES, 19 * BLOCK_SIZE_BYTES),
    ]);
    expect(large.reads).toEqual([
      [5, 1],
      [29, 1],
      [2, 3],
      [6, 6],
      [12, 16],
      [28, 1],
    ]);
  });

  it('finds a changed byte in its own block alone', async () => {
    const { image, directory } = await makeImage(LARGE);
    const [blob] = blockLayers(image.manifest);
    const path = blobPath(directory, blob!.digest);
    const bytes = readFileSync(path);
    bytes[6 * BLOCK_SIZE_BYTES]! ^= 1;
    writeFileSync(path, bytes);
    const layers = await CheckedLayers.open(parts, image, { folder: tempFolder(), signal });
    const read = (first: number, count: number) =>
      layers.read(blob!, first * BLOCK_SIZE_BYTES, count * BLOCK_SIZE_BYTES);
    await expect(read(0, 10)).rejects.toThrow('block 6 of 30 of layer');
    await read(0, 6);
    await read(7, 5);
    await expect(read(6, 1)).rejects.toMatchObject({ code: 'damaged' });
  });

  it('flattens with few reads', async () => {
    const { image } = await makeImage(LARGE);
    const large = counted(image);
    const folder = tempFolder();
    const places = { outPath: join(folder, 'disk'), folder };
    await flattenImage(parts, large.image, places, { signal });
    expect(large.reads.length).toBeLessThan(15);
  });
});

describe('layerSource()', () => {
  it('opens a layer with a read of its start and one of its end', async () => {
    const { image } = await makeImage({
      ...{ withDigests: true, deviceBytes: 16 * MIB, dataBytes: 12 * MIB },
    });
    const large = counted(image);
    const [blob] = blockLayers(image.manifest);
    const layer = await openLayer(layerSource(large.image.place, blob!, signal), codec);
    expect(layer.segments.count).toBe(1);
    expect(large.reads).toHaveLength(2);
  });
});

describe('findBlockImage()', () => {
  it('refuses an ordinary image', async () => {
    const layout = join(tempFolder(), 'layout');
    await putLayout(layout, '1', [sampleBytes(512, 1)]);
    const place = new LayoutPlace(parts, `oci:${layout}:1`);
    const found = findBlockImage(place, { platform: undefined, signal });
    await expect(found).rejects.toThrow(/no block image.*xylem convert/);
  });
});

describe('shipTrace()', () => {
  const accesses = [{ op: 'read', layer: 1, offset: 8192, length: 4096 }] as const;

  it.each([true, false])('replaces the trace alone, with digests: %s', async (withDigests) => {
    const { image, directory, open } = await makeImage({ withDigests });
    const layers = await CheckedLayers.open(parts, image, { folder: tempFolder(), signal });
    const target = new LayoutPlace(parts, `oci:${directory}:b`);
    const trace = encodeTrace(accesses, codec);
    const of = { ...image, layers };
    const { digest } = await shipTrace(parts, of, { trace, target }, { signal });
    await layers.close();
    const next = await open('b');
    expect(next.stored.digest).toBe(digest);
    expect(await readShippedTrace(codec, next, signal)).toEqual(accesses);
    expect(blockLayers(next.manifest)).toEqual(blockLayers(image.manifest));
    expect(next.manifest.annotations).toEqual({ about: 'it' });
    expect(next.manifest.layers[0]?.annotations).toMatchObject({
      [`${OVERLAYBD_ANNOTATION}vsize`]: String(SIZE),
    });
    const config = await readConfig(next, signal);
    expect(config).toMatchObject({
      config: { Cmd: ['a'] },
      rootfs: { diff_ids: next.manifest.layers.map((layer) => layer.digest) },
    });
    expect(config['history']).toHaveLength(3);
    // Its digests are right.
    const again = await CheckedLayers.open(parts, next, { folder: tempFolder(), signal });
    const [blob] = blockLayers(next.manifest);
    expect(await again.read(blob!, 0, blob!.sizeBytes)).toHaveLength(blob!.sizeBytes);
  });

  it('gives the same digest for the trace that the image has', async () => {
    const { image } = await makeImage({ withDigests: true });
    const layers = await CheckedLayers.open(parts, image, { folder: tempFolder(), signal });
    const written = blockLayers(image.manifest).map((blob) => layers.written(blob));
    const acceleration = makeAccelerationLayer(parts, { layers: written });
    const config = await readConfig(image, signal);
    const encoded = withAcceleration(
      parts.hash,
      { manifest: image.stored.bytes, config },
      acceleration,
    );
    expect(encoded.manifest.digest).toBe(image.stored.digest);
  });
});
