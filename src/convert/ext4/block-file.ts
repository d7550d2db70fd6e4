import { closeSync, fsyncSync, openSync, readSync, writeSync } from 'node:fs';
import { BoundedMap } from '../../util/bounded-map.ts';
import { BitSet } from '../../util/bit-set.ts';
import { fileError } from '../files.ts';
import { dataRanges } from '../native/data-ranges.ts';
import type { BlockIo } from '../native/io-manager.ts';

/** Bytes of a block of the file system. */
export const BLOCK_BYTES = 4096;

/** Blocks of metadata in memory (32 MiB): inode tables and bitmaps change many times. */
const CACHED_BLOCKS = 8192;

interface CachedBlock {
  readonly bytes: Uint8Array;
  isDirty: boolean;
}

/**
 * A sparse file as a disk of 4 KiB blocks, which knows the blocks that changed since the last
 * `takeChanged()`. A block written with the bytes that it has is not changed. Its calls are
 * synchronous, as the calls of libext2fs are. Throws ConvertError.
 */
export class BlockFile implements BlockIo {
  readonly blockCount: number;
  readonly #path: string;
  readonly #fd: number;
  readonly #cache = new BoundedMap<number, CachedBlock>({
    entriesMax: CACHED_BLOCKS,
    evict: 'use',
    onEvict: (block, { bytes, isDirty }) => {
      if (isDirty) this.#put(block, bytes);
    },
  });
  #changed: BitSet;
  #unitBytes = BLOCK_BYTES;

  /** Opens a file whose size is a multiple of the block size. All its data counts as changed. */
  constructor(path: string, sizeBytes: number) {
    this.#path = path;
    this.blockCount = sizeBytes / BLOCK_BYTES;
    this.#changed = new BitSet(this.blockCount);
    this.#fd = this.#failing('open', () => openSync(path, 'r+'));
    for (const { offset, length } of dataRanges(this.#fd)) {
      const end = (offset + length) / BLOCK_BYTES;
      for (let block = Math.floor(offset / BLOCK_BYTES); block < end; block++) {
        this.#changed.add(block);
      }
    }
  }

  /** The changed blocks since the last call. */
  takeChanged(): BitSet {
    this.flush();
    const changed = this.#changed;
    this.#changed = new BitSet(this.blockCount);
    return changed;
  }

  setBlockSize(bytes: number): void {
    this.#unitBytes = bytes;
  }

  read(unit: number, target: Uint8Array): void {
    const start = unit * this.#unitBytes;
    for (let done = 0; done < target.length; ) {
      const offset = (start + done) % BLOCK_BYTES;
      const count = Math.min(BLOCK_BYTES - offset, target.length - done);
      const { bytes } = this.#cached((start + done - offset) / BLOCK_BYTES);
      target.set(bytes.subarray(offset, offset + count), done);
      done += count;
    }
  }

  write(unit: number, bytes: Uint8Array): void {
    const start = unit * this.#unitBytes;
    for (let done = 0; done < bytes.length; ) {
      const offset = (start + done) % BLOCK_BYTES;
      const count = Math.min(BLOCK_BYTES - offset, bytes.length - done);
      const block = (start + done - offset) / BLOCK_BYTES;
      const cached = this.#cached(block);
      const old = Buffer.from(cached.bytes.buffer, cached.bytes.byteOffset + offset, count);
      const piece = bytes.subarray(done, done + count);
      if (!old.equals(piece)) {
        old.set(piece);
        cached.isDirty = true;
        this.#changed.add(block);
      }
      done += count;
    }
  }

  /** The block's bytes; the caller does not change them. */
  block(block: number): Uint8Array {
    return this.#cached(block).bytes;
  }

  /** The bytes of blocks, as the file has them. */
  readBlocks(first: number, count: number): Uint8Array {
    const bytes = Buffer.allocUnsafe(count * BLOCK_BYTES);
    this.#failing('read', () => readSync(this.#fd, bytes, 0, bytes.length, first * BLOCK_BYTES));
    return bytes;
  }

  /** Writes whole blocks of file content past the cache. */
  writeContent(block: number, bytes: Uint8Array): void {
    const count = bytes.length / BLOCK_BYTES;
    for (let i = 0; i < count; i++) {
      this.#cache.delete(block + i);
      this.#changed.add(block + i);
    }
    this.#put(block, bytes);
  }

  /** Writes the cached blocks to the file. */
  flush(): void {
    for (const [block, cached] of this.#cache) {
      if (!cached.isDirty) continue;
      this.#put(block, cached.bytes);
      cached.isDirty = false;
    }
  }

  sync(): void {
    this.#failing('write', () => fsyncSync(this.#fd));
  }

  close(): void {
    closeSync(this.#fd);
  }

  #cached(block: number): CachedBlock {
    const known = this.#cache.get(block);
    if (known !== undefined) return known;
    const bytes = Buffer.alloc(BLOCK_BYTES);
    this.#failing('read', () => readSync(this.#fd, bytes, 0, BLOCK_BYTES, block * BLOCK_BYTES));
    const cached = { bytes, isDirty: false };
    this.#cache.set(block, cached);
    return cached;
  }

  #put(block: number, bytes: Uint8Array): void {
    this.#failing('write', () => {
      for (let done = 0; done < bytes.length; ) {
        done += writeSync(this.#fd, bytes, done, bytes.length - done, block * BLOCK_BYTES + done);
      }
    });
  }

  #failing<T>(verb: string, act: () => T): T {
    try {
      return act();
    } catch (cause) {
      throw fileError(this.#path, verb, cause);
    }
  }
}

const ZEROS = new Uint8Array(BLOCK_BYTES);

/** Whether the block at `offset` of the bytes is all zeros. */
export function isZeroBlock(bytes: Uint8Array, offset: number): boolean {
  const block = Buffer.from(bytes.buffer, bytes.byteOffset + offset, BLOCK_BYTES);
  return block.equals(ZEROS);
}
