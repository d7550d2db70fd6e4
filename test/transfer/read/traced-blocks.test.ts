import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { BLOCK_SIZE_BYTES, blocksOfRange, type BlobRef } from '../../../src/image/block.ts';
import { memorySource } from '../../../src/image/byte-source.ts';
import type { Digest } from '../../../src/image/digest.ts';
import { openLayer } from '../../../src/image/layer.ts';
import { encodeLsmtHeader, LSMT_HEADER_BYTES, uuidOfHex } from '../../../src/image/lsmt-header.ts';
import { ACCELERATION_ANNOTATION, type Manifest } from '../../../src/image/manifest.ts';
import { tarOf } from '../../../src/image/tar.ts';
import { encodeTrace, type TraceAccess } from '../../../src/image/trace.ts';
import type { BlobReader, ReadOptions } from '../../../src/transfer/contracts/blob-reader.ts';
import { tracedBlocks, tracedOrders } from '../../../src/transfer/read/traced-blocks.ts';
import { ORDER_BLOCKS_MAX } from '../../../src/tree/limits.ts';
import { defined } from '../../../src/util/assert.ts';
import { codec, makeLayer, sampleBytes } from '../../kit/layers.ts';
import { digestOf } from '../../kit/registry-content.ts';
import { describeWith, FIXTURES, needs } from '../../kit/requires.ts';

const signal = new AbortController().signal;
const prefetch = { kind: 'prefetch', signal } as const;

/** An image in memory: what is read of it, and how. */
class ImageInMemory implements BlobReader {
  readonly manifest: Manifest;
  readonly reads: { digest: Digest; kind: ReadOptions['kind'] }[] = [];
  readonly #blobs = new Map<Digest, Uint8Array>();

  constructor(layers: readonly Uint8Array[], shipped?: Uint8Array) {
    const described = layers.map((bytes) => this.#add(bytes));
    if (shipped !== undefined) {
      described.push(this.#add(shipped, { [ACCELERATION_ANNOTATION]: 'yes' }));
    }
    const config = this.#add(new Uint8Array(2));
    this.manifest = { mediaType: 'm', config, layers: described, annotations: {} };
  }

  digest(layer: number): Digest {
    return defined(this.manifest.layers[layer], 'a layer').digest;
  }

  read(blob: BlobRef, offset: number, length: number, { kind }: ReadOptions) {
    this.reads.push({ digest: blob.digest, kind });
    const bytes = defined(this.#blobs.get(blob.digest), 'a blob of the image');
    return Promise.resolve(bytes.slice(offset, offset + length));
  }

  readCached(): undefined {
    return undefined;
  }

  #add(bytes: Uint8Array, annotations = {}) {
    const digest = digestOf(bytes);
    this.#blobs.set(digest, bytes);
    return { mediaType: 'm', digest, size: bytes.length, annotations };
  }
}

function traceTar(accesses: readonly TraceAccess[]): Uint8Array {
  return tarOf([{ name: 'trace', bytes: encodeTrace(accesses, codec) }]).bytes;
}

function readOf(layer: number, offset: number, length = 1): TraceAccess {
  return { op: 'read', layer, offset, length };
}

/** A layer without compression, so that offsets in it are offsets in its blob. */
function rawLayer(blocks: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(blocks * BLOCK_SIZE_BYTES);
  const fields = {
    indexOffset: LSMT_HEADER_BYTES,
    segmentCount: 0,
    virtualSizeBytes: 0,
    uuid: uuidOfHex(String(seed).repeat(32)),
  };
  bytes.set(encodeLsmtHeader(fields, 'header'), 0);
  bytes.set(encodeLsmtHeader(fields, 'trailer'), bytes.length - LSMT_HEADER_BYTES);
  return bytes;
}

describe('tracedOrders()', () => {
  it('gives runs of blocks of a layer one by one, each block once, as prefetches', async () => {
    const at = (block: number): number => block * BLOCK_SIZE_BYTES + 5;
    const trace = [
      readOf(0, at(3)),
      readOf(0, at(2), BLOCK_SIZE_BYTES),
      readOf(1, at(1)),
      { ...readOf(1, at(2)), op: 'write' } as const,
      readOf(0, at(3)),
      readOf(0, at(5), 100 * BLOCK_SIZE_BYTES),
      readOf(9, 0),
    ];
    const image = new ImageInMemory([rawLayer(7, 1), rawLayer(4, 2)], traceTar(trace));
    expect(await tracedOrders({ reader: image, codec }, image.manifest, prefetch)).toEqual([
      { digest: image.digest(0), indices: [3, 2] },
      { digest: image.digest(1), indices: [1] },
      { digest: image.digest(0), indices: [5, 6] },
    ]);
    expect(new Set(image.reads.map(({ kind }) => kind))).toEqual(new Set(['prefetch']));
  });

  it('is empty without a trace, and for a trace of no reads, and opens no layer', async () => {
    for (const shipped of [undefined, traceTar([]), traceTar([{ ...readOf(0, 0), op: 'write' }])]) {
      const image = new ImageInMemory([rawLayer(2, 1)], shipped);
      expect(await tracedOrders({ reader: image, codec }, image.manifest, prefetch)).toEqual([]);
      expect(image.reads.every(({ digest }) => digest !== image.digest(0))).toBe(true);
    }
  });

  it(`stops at ${ORDER_BLOCKS_MAX} blocks`, async () => {
    const layer = rawLayer(2, 1);
    const sizeBytes = 2 * ORDER_BLOCKS_MAX * BLOCK_SIZE_BYTES;
    const image = new ImageInMemory([layer], traceTar([readOf(0, 0, sizeBytes)]));
    const digest = image.digest(0);
    // The layer's two ends, far apart.
    const skipped = sizeBytes - layer.length;
    const read = image.read.bind(image);
    image.read = (blob, offset, length, options) => {
      const isEnd = blob.digest === digest && offset >= skipped;
      return read(blob, isEnd ? offset - skipped : offset, length, options);
    };
    const [bottom, top] = image.manifest.layers;
    const layers = [{ ...defined(bottom, 'a layer'), size: sizeBytes }, defined(top, 'a trace')];
    const manifest = { ...image.manifest, layers };
    const orders = await tracedOrders({ reader: image, codec }, manifest, prefetch);
    expect(orders.map(({ indices }) => indices.length)).toEqual([ORDER_BLOCKS_MAX]);
  });

  it('refuses a trace of too many accesses before it reads it', async () => {
    const shipped = traceTar([readOf(0, 0)]);
    // The file in the tar says that it has 4 MiB and more.
    const large = tarOf([{ name: 'trace', bytes: new Uint8Array(4 * 2 ** 20) }]).bytes;
    const image = new ImageInMemory([rawLayer(2, 1)], large);
    const orders = tracedOrders({ reader: image, codec }, image.manifest, prefetch);
    await expect(orders).rejects.toMatchObject({ code: 'out-of-range' });
    expect(image.reads).toHaveLength(1);
    const damaged = shipped.slice();
    damaged[512 + 30] = 7;
    const other = new ImageInMemory([rawLayer(2, 1)], damaged);
    const none = tracedOrders({ reader: other, codec }, other.manifest, prefetch);
    await expect(none).rejects.toMatchObject({ code: 'damaged' });
  });
});

describe('tracedBlocks()', () => {
  it('names what opening the image reads, then what the trace names, each block once', async () => {
    const device = sampleBytes(4 * 2 ** 20, 3);
    const ranges = [{ offset: 0, bytes: device }];
    const layer = await makeLayer({ virtualSizeBytes: device.length, ranges });
    const at = 2 * 2 ** 20;
    const image = new ImageInMemory([layer], traceTar([readOf(0, at, 70_000)]));
    const { body } = await openLayer(memorySource(layer), codec);
    const traced: number[] = [];
    body.visitRanges(at, 70_000, (offset, length) => {
      traced.push(...blocksOfRange(offset, length));
    });
    const blocks = await tracedBlocks({ reader: image, codec }, image.manifest, signal);
    const names = blocks.map(({ blob, index }) => `${blob.digest} ${index}`);
    expect(new Set(names).size).toBe(names.length);
    // The trace, and the head of the layer.
    expect(names.slice(0, 2)).toEqual([`${image.digest(1)} 0`, `${image.digest(0)} 0`]);
    expect(names).toEqual(
      expect.arrayContaining(traced.map((index) => `${image.digest(0)} ${index}`)),
    );
    const orders = await tracedOrders({ reader: image, codec }, image.manifest, prefetch);
    expect(orders).toEqual([{ digest: image.digest(0), indices: traced }]);
  });
});

describeWith('tracedOrders() of a recorded trace', [needs.fixtures], () => {
  it('names blocks of the layers that overlaybd read', async () => {
    const fixture = (path: string): Uint8Array => readFileSync(join(FIXTURES, path));
    const layers = [0, 1, 2].map((i) => fixture(`layers/layer${i}.overlaybd.commit`));
    const trace = tarOf([{ name: 'trace', bytes: fixture('trace/trace.bin') }]).bytes;
    const image = new ImageInMemory(layers, trace);
    const orders = await tracedOrders({ reader: image, codec }, image.manifest, prefetch);
    const known = [0, 1, 2].map((layer) => image.digest(layer));
    expect(orders.length).toBeGreaterThan(0);
    for (const { digest, indices } of orders) {
      const layer = defined(layers[known.indexOf(digest)], 'a layer of the image');
      expect(indices.every((index) => index * BLOCK_SIZE_BYTES < layer.length)).toBe(true);
    }
  });
});
