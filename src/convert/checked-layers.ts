import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import {
  blockCount,
  blockIndex,
  blockLength,
  blocksOfRange,
  BLOCK_SIZE_BYTES,
  type BlobRef,
  type BlockIndex,
} from '../image/block.ts';
import { BlockDigests, digestedLayers } from '../image/block-digests.ts';
import type { ByteSource } from '../image/byte-source.ts';
import { digestHex, type Digest } from '../image/digest.ts';
import { damaged } from '../image/errors.ts';
import { blockLayers } from '../image/manifest.ts';
import type { Hash } from '../runtime/codec.ts';
import { defined } from '../util/assert.ts';
import { BoundedMap } from '../util/bounded-map.ts';
import { MIB } from '../util/bytes.ts';
import { Limiter } from '../util/limiter.ts';
import { placeSource, type BlockImage } from './block-image.ts';
import { failing, LocalFile } from './files.ts';
import { digestsOf, type ProgressOptions, type WrittenLayer } from './layer-blob.ts';

/** Blocks kept in memory, in bytes. (tunable) */
const CACHE_BYTES = 64 * MIB;

/** Reads of a place at a time. (tunable) */
const READS_MAX = 16;

/** Blocks of one read: 4 MiB. (tunable) */
const RUN_BLOCKS = 16;

/** Reads that wait for that; a device has some hundred in flight. */
const WAITING_MAX = 65_536;

/** A layer that is open. */
interface OpenLayer {
  readonly source: ByteSource;
  readonly digests: BlockDigests;
}

/** A block that was read; an error when it is not what it should be. */
type ReadBlock = Uint8Array | Error;

/**
 * The layers of a block image, read by parts where they lie, each block checked. Of an image that
 * ships no block digests, the layers are fetched whole first, and checked against their sha256.
 * Adjacent blocks are one read. A read that goes on where earlier ones ended takes as many blocks
 * as these had, so that who reads in order soon reads 4 MiB at a time.
 *
 * Life: `open()` -> reads -> `close()`. Everything rejects with ConvertError, RegistryError,
 * ImageError, or the signal's reason.
 */
export class CheckedLayers {
  readonly #hash: Hash;
  readonly #signal: AbortSignal;
  readonly #layers: ReadonlyMap<Digest, OpenLayer>;
  readonly #files: readonly LocalFile[];
  readonly #line = new Limiter({ runningMax: READS_MAX, waitingMax: WAITING_MAX });
  /** Blocks in flight. */
  readonly #flying = new Map<string, Promise<Uint8Array>>();
  readonly #cache = new BoundedMap<string, Uint8Array>({
    entriesMax: CACHE_BYTES / BLOCK_SIZE_BYTES,
    evict: 'use',
  });

  private constructor(
    { hash }: { readonly hash: Hash },
    init: {
      readonly layers: ReadonlyMap<Digest, OpenLayer>;
      readonly files: readonly LocalFile[];
      readonly signal: AbortSignal;
    },
  ) {
    this.#hash = hash;
    this.#layers = init.layers;
    this.#files = init.files;
    this.#signal = init.signal;
  }

  /** `folder`: for layers that have to be fetched; the caller removes it. */
  static async open(
    components: { readonly hash: Hash },
    image: BlockImage,
    options: ProgressOptions & { readonly signal: AbortSignal; readonly folder: string },
  ): Promise<CheckedLayers> {
    const { place, manifest } = image;
    const { signal } = options;
    const shipped = new Map(digestedLayers(manifest).map((layer) => [layer.blob.digest, layer]));
    const layers = new Map<Digest, OpenLayer>();
    const files: LocalFile[] = [];
    try {
      for (const blob of blockLayers(manifest)) {
        if (layers.has(blob.digest)) continue;
        const layer = shipped.get(blob.digest);
        if (layer === undefined) {
          const file = await fetched(image, blob, options);
          files.push(file);
          const { blockDigests } = await digestsOf(components.hash, file, options);
          layers.set(blob.digest, { source: file, digests: BlockDigests.make(blob, blockDigests) });
          continue;
        }
        const { holder, offset, sizeBytes } = layer;
        const bytes = await place.readPart(holder, { offset, length: sizeBytes }, signal);
        const digests = BlockDigests.parse(components.hash, layer, bytes);
        layers.set(blob.digest, { source: placeSource(place, blob, signal), digests });
      }
      return new CheckedLayers(components, { layers, files, signal });
    } catch (error) {
      for (const file of files) await file.close();
      throw error;
    }
  }

  /** A layer and the digests of its blocks. */
  written(blob: BlobRef): WrittenLayer {
    return { layer: blob, blockDigests: this.#layer(blob).digests };
  }

  /** A layer as a source of checked bytes. */
  source(blob: BlobRef): ByteSource {
    return {
      sizeBytes: blob.sizeBytes,
      read: (offset, length) => this.read(blob, offset, length),
    };
  }

  /** The bytes [offset, offset + length) of a layer, in memory of the caller's own. */
  async read(blob: BlobRef, offset: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    if (length === 0) return bytes;
    await Promise.all(
      blocksOfRange(offset, length).map(async (index, i, all) => {
        const block = await this.#block(blob, index, all.length - i);
        const start = index * BLOCK_SIZE_BYTES;
        const from = Math.max(offset, start);
        const to = Math.min(offset + length, start + block.length);
        bytes.set(block.subarray(from - start, to - start), from - offset);
      }),
    );
    return bytes;
  }

  /** The same as a view, when all of it lies in one block that is in memory; else undefined. */
  readCached(blob: BlobRef, offset: number, length: number): Uint8Array | undefined {
    const index = Math.floor(offset / BLOCK_SIZE_BYTES);
    const start = index * BLOCK_SIZE_BYTES;
    if (offset + length > start + BLOCK_SIZE_BYTES) return undefined;
    const block = this.#cache.get(keyOf(blob, blockIndex(index)));
    return block?.subarray(offset - start, offset - start + length);
  }

  async close(): Promise<void> {
    for (const file of this.#files) await file.close();
  }

  /** A block; `wanted` counts it and those behind it that are about to be asked for. */
  #block(blob: BlobRef, index: BlockIndex, wanted: number): Promise<Uint8Array> {
    const key = keyOf(blob, index);
    const cached = this.#cache.get(key);
    if (cached !== undefined) return Promise.resolve(cached);
    const flying = this.#flying.get(key);
    return flying ?? this.#start(blob, index, this.#runOf(blob, index, wanted));
  }

  /** How many blocks to read from this one on, none of them in memory or in flight. */
  #runOf(blob: BlobRef, first: BlockIndex, wanted: number): number {
    const has = (index: number): boolean => this.#cache.has(keyOf(blob, blockIndex(index)));
    let before = 0;
    while (before < RUN_BLOCKS && before < first && has(first - before - 1)) before++;
    const most = Math.min(RUN_BLOCKS, Math.max(wanted, before), blockCount(blob.sizeBytes) - first);
    let count = 1;
    while (count < most) {
      const next = blockIndex(first + count);
      if (has(next) || this.#flying.has(keyOf(blob, next))) break;
      count++;
    }
    return count;
  }

  /** Begins to read blocks; gives the first of them. */
  #start(blob: BlobRef, first: BlockIndex, count: number): Promise<Uint8Array> {
    const read = this.#line.run(() => this.#readRun(blob, first, count), this.#signal);
    const run = defined(read, 'reads in flight are bounded');
    const blocks = Array.from({ length: count }, (_, i) => {
      const key = keyOf(blob, blockIndex(first + i));
      const block = run.then((found) => soundOf(found[i])).finally(() => this.#flying.delete(key));
      // Perhaps nobody wants it.
      block.catch(() => {});
      this.#flying.set(key, block);
      return block;
    });
    return defined(blocks[0], 'a run has a block');
  }

  async #readRun(blob: BlobRef, first: BlockIndex, count: number): Promise<readonly ReadBlock[]> {
    this.#signal.throwIfAborted();
    const start = first * BLOCK_SIZE_BYTES;
    const length = Math.min(count * BLOCK_SIZE_BYTES, blob.sizeBytes - start);
    const bytes = await this.#layer(blob).source.read(start, length);
    return Array.from({ length: count }, (_, i) => {
      const index = blockIndex(first + i);
      const part = bytes.subarray(i * BLOCK_SIZE_BYTES, (i + 1) * BLOCK_SIZE_BYTES);
      // One that is kept must not keep the others.
      const block = count === 1 ? part : new Uint8Array(part);
      return this.#checked(blob, index, block);
    });
  }

  #checked(blob: BlobRef, index: BlockIndex, block: Uint8Array): ReadBlock {
    const isWhole = block.length === blockLength(blob.sizeBytes, index);
    if (isWhole && this.#layer(blob).digests.matches(index, this.#hash.blake3(block))) {
      this.#cache.set(keyOf(blob, index), block);
      return block;
    }
    const of = `block ${index} of ${blockCount(blob.sizeBytes)} of layer ${blob.digest}`;
    return damaged(of, 'its digest is not the one that the image ships');
  }

  #layer({ digest }: BlobRef): OpenLayer {
    return defined(this.#layers.get(digest), 'only layers of the image are read');
  }
}

/** Fetches a whole layer, which is checked then. */
async function fetched(
  { place }: BlockImage,
  blob: BlobRef,
  options: ProgressOptions & { readonly signal: AbortSignal; readonly folder: string },
): Promise<LocalFile> {
  const { folder, signal, onProgress } = options;
  const path = join(folder, digestHex(blob.digest));
  const file = await LocalFile.open(path, 'create');
  try {
    for await (const piece of place.openBlob(blob, signal)) {
      await file.write(file.sizeBytes, piece);
      onProgress?.('fetching', file.sizeBytes, blob.sizeBytes);
    }
    // Open as it is, it goes with the process, however that ends.
    await failing(path, 'remove', () => rm(path));
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

function soundOf(block: ReadBlock | undefined): Uint8Array {
  if (block instanceof Uint8Array) return block;
  throw defined(block, 'a run has as many blocks as were asked for');
}

function keyOf({ digest }: BlobRef, index: BlockIndex): string {
  return `${digest} ${index}`;
}
