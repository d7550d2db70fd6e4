import { readPart, type ByteRange, type ByteSource } from '../../image/byte-source.ts';
import { damaged, ImageError, outOfRange } from '../../image/errors.ts';
import { KIB, MIB } from '../../util/bytes.ts';
import type { ByteString } from '../tar/tar-entry.ts';
import { byteString } from '../tar/tar-header.ts';
import { CachedSource } from './cached-source.ts';
import {
  attributesInBlock,
  attributesInInode,
  INLINE_DATA_NAME,
  seenValue,
  type Attribute,
} from './ext4-attributes.ts';
import { entriesIn, type DirectoryEntry } from './ext4-directory.ts';
import { extentsOf, type BlockReader } from './ext4-extents.ts';
import { parseInode, type Inode } from './ext4-inode.ts';
import { readLayout, type Ext4Layout } from './ext4-layout.ts';

/** Number of the inode of the root. */
export const ROOT_INODE = 2;

/** A target of a symbolic link; PATH_MAX of Linux. */
const LINK_BYTES_MAX = 4096;

/** Largest directory: 4 million names of the longest kind. */
const DIRECTORY_BYTES_MAX = 1024 * MIB;

/** Content is read in pieces of this size. */
const PIECE_BYTES = 1 * MIB;

/** In a small directory that lies in its inode, the number of its parent comes first. */
const INLINE_PARENT_BYTES = 4;

/** A piece of a file's content; what lies between pieces is zeros. */
export interface ContentPiece {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/**
 * Reads an ext4 file system without a kernel, from any writer. Everything that it reads is
 * checked, so that a damaged or hostile one gives an ImageError: no call reads more than the file
 * system can hold, and none keeps more than one directory block or one piece of content.
 */
export class Ext4Reader {
  readonly layout: Ext4Layout;
  readonly #source: ByteSource;
  readonly #cached: CachedSource;
  readonly #blocks: BlockReader;

  private constructor(source: ByteSource, cached: CachedSource, layout: Ext4Layout) {
    this.#source = source;
    this.#cached = cached;
    this.layout = layout;
    const { blockSizeBytes, blockCount } = layout;
    const readBlock = (block: number): Promise<Uint8Array> =>
      cached.read(block * blockSizeBytes, blockSizeBytes);
    this.#blocks = { blockCount, readBlock };
  }

  /** Throws ImageError when the source has no ext4 file system, or one of an unknown form. */
  static async open(source: ByteSource): Promise<Ext4Reader> {
    const cached = new CachedSource(source);
    return new Ext4Reader(source, cached, await readLayout(cached));
  }

  /** Reads an inode that is in use. Throws ImageError. */
  async inode(number: number): Promise<Inode> {
    const { offset, length } = this.placeOf(number);
    return parseInode(number, await this.#cached.read(offset, length));
  }

  /** Where an inode lies on the device. Throws ImageError. */
  placeOf(number: number): ByteRange {
    const { inodeCount, inodesPerGroup, inodeSizeBytes, inodeTables, blockSizeBytes } = this.layout;
    if (number < 1 || number > inodeCount) {
      throw outOfRange('ext4 inode number', number, `there are ${inodeCount}`);
    }
    const table = inodeTables[Math.floor((number - 1) / inodesPerGroup)] ?? 0;
    const index = (number - 1) % inodesPerGroup;
    return { offset: table * blockSizeBytes + index * inodeSizeBytes, length: inodeSizeBytes };
  }

  /**
   * Where the content of a file lies on the device, and what maps it there beside the inode. Throws
   * ImageError.
   */
  async *contentPlaces(inode: Inode): AsyncGenerator<ByteRange, void> {
    if (inode.hasInlineData) return;
    const { blockSizeBytes } = this.layout;
    const placeOfBlocks = (block: number, count: number): ByteRange => ({
      offset: block * blockSizeBytes,
      length: count * blockSizeBytes,
    });
    const nodes: number[] = [];
    for await (const { physical, count } of this.#extents(inode, (block) => nodes.push(block))) {
      for (const node of nodes.splice(0)) yield placeOfBlocks(node, 1);
      if (physical !== undefined) yield placeOfBlocks(physical, count);
    }
  }

  /** The names in a directory, in the order of the disk. Throws ImageError. */
  async *entries(directory: Inode): AsyncGenerator<DirectoryEntry, void> {
    const part = partOf(directory);
    if (directory.type !== 'directory') throw damaged(part, 'it is no directory');
    if (directory.hasInlineData) {
      yield* entriesIn(directory.blockField.subarray(INLINE_PARENT_BYTES), part);
      const rest = (await this.#rawAttributes(directory)).get(INLINE_DATA_NAME);
      if (rest !== undefined && rest.length > 0) yield* entriesIn(rest, part);
      return;
    }
    const { sizeBytes } = directory;
    const { blockSizeBytes } = this.layout;
    if (sizeBytes > DIRECTORY_BYTES_MAX || sizeBytes % blockSizeBytes !== 0) {
      throw outOfRange(`${part} size`, sizeBytes, `a directory has whole blocks, up to 1 GiB`);
    }
    let next = 0;
    for await (const { offset, block } of this.#blocksOf(directory)) {
      if (offset !== next) throw damaged(part, 'the directory has a hole');
      next += blockSizeBytes;
      yield* entriesIn(await this.#blocks.readBlock(block), part);
    }
    if (next < sizeBytes) throw damaged(part, 'the directory has a hole');
  }

  /** The target of a symbolic link. Throws ImageError. */
  async linkTarget(link: Inode): Promise<ByteString> {
    const { sizeBytes, blockField } = link;
    if (sizeBytes > LINK_BYTES_MAX) {
      throw outOfRange(`${partOf(link)} size`, sizeBytes, `a link has up to ${LINK_BYTES_MAX}`);
    }
    const isFast = !link.hasInlineData && !link.hasExtents && sizeBytes < blockField.length;
    const target = new Uint8Array(sizeBytes);
    if (isFast) target.set(blockField.subarray(0, sizeBytes));
    else for await (const { offset, bytes } of this.content(link)) target.set(bytes, offset);
    return byteString(target);
  }

  /** The extended attributes by their full names, as programs see them. Throws ImageError. */
  async attributes(inode: Inode): Promise<Map<ByteString, Uint8Array>> {
    const attributes = await this.#rawAttributes(inode);
    attributes.delete(INLINE_DATA_NAME);
    for (const [name, value] of attributes) {
      attributes.set(name, seenValue(name, value, partOf(inode)));
    }
    return attributes;
  }

  /** The content, as far as it is not zeros: pieces in order, in the file. Throws ImageError. */
  async *content(inode: Inode): AsyncGenerator<ContentPiece, void> {
    const { sizeBytes } = inode;
    if (inode.hasInlineData) {
      const rest = (await this.#rawAttributes(inode)).get(INLINE_DATA_NAME);
      const bytes = Buffer.concat([inode.blockField, rest ?? new Uint8Array(0)]);
      if (bytes.length < sizeBytes) throw damaged(partOf(inode), 'its data is cut short');
      if (sizeBytes > 0) yield { offset: 0, bytes: bytes.subarray(0, sizeBytes) };
      return;
    }
    const { blockSizeBytes } = this.layout;
    for await (const extent of this.#extents(inode)) {
      if (extent.physical === undefined) continue;
      const start = extent.logical * blockSizeBytes;
      const end = Math.min(sizeBytes, start + extent.count * blockSizeBytes);
      const shift = extent.physical * blockSizeBytes - start;
      // Small files lie beside each other, and come with the page.
      const source = end - start < 32 * KIB ? this.#cached : this.#source;
      for (let offset = start; offset < end; offset += PIECE_BYTES) {
        const length = Math.min(PIECE_BYTES, end - offset);
        yield { offset, bytes: await readPart(source, shift + offset, length, partOf(inode)) };
      }
    }
  }

  /** The blocks of a file, up to its size. */
  async *#blocksOf(inode: Inode): AsyncGenerator<{ offset: number; block: number }, void> {
    const { blockSizeBytes } = this.layout;
    for await (const { logical, count, physical } of this.#extents(inode)) {
      if (physical === undefined) continue;
      for (let i = 0; i < count; i++) {
        const offset = (logical + i) * blockSizeBytes;
        if (offset >= inode.sizeBytes) return;
        yield { offset, block: physical + i };
      }
    }
  }

  /** `onNode` is told the blocks of the tree of extents. */
  async *#extents(inode: Inode, onNode?: (block: number) => void): ReturnType<typeof extentsOf> {
    if (inode.sizeBytes === 0) return;
    if (!inode.hasExtents) {
      // Nothing but holes needs no map.
      if (inode.blockField.every((byte) => byte === 0)) return;
      throw new ImageError(
        `cannot read ${partOf(inode)}: it has a block map as ext2 and ext3 have, and no extents`,
        { code: 'unsupported', part: 'ext4 block map' },
      );
    }
    const blocks = this.#blocks;
    const readBlock = (block: number): Promise<Uint8Array> => {
      onNode?.(block);
      return blocks.readBlock(block);
    };
    yield* extentsOf({ ...blocks, readBlock }, inode.blockField, partOf(inode));
  }

  /** The attributes as they lie on disk, inline data among them. */
  async #rawAttributes(inode: Inode): Promise<Map<ByteString, Uint8Array>> {
    const part = partOf(inode);
    const found = new Map<ByteString, Uint8Array>();
    const add = async (attributes: readonly Attribute[]): Promise<void> => {
      for (const attribute of attributes) {
        if (found.has(attribute.name)) throw damaged(part, 'it has an attribute twice');
        found.set(attribute.name, attribute.value ?? (await this.#farValue(attribute)));
      }
    };
    await add(attributesInInode(inode.attributeBytes, part));
    const block = inode.attributeBlock;
    if (block === 0) return found;
    if (block >= this.layout.blockCount) {
      throw outOfRange(`${part} block of attributes`, block, 'it lies behind the end');
    }
    await add(attributesInBlock(await this.#blocks.readBlock(block), part));
    return found;
  }

  /** A large value is the content of an inode of its own. */
  async #farValue({ valueInode, valueBytes }: Attribute): Promise<Uint8Array> {
    const inode = await this.inode(valueInode);
    if (inode.type !== 'file' || inode.hasInlineData || inode.sizeBytes !== valueBytes) {
      throw damaged(partOf(inode), 'it is not the value of the attribute that names it');
    }
    const value = new Uint8Array(valueBytes);
    for await (const { offset, bytes } of this.content(inode)) value.set(bytes, offset);
    return value;
  }
}

function partOf({ number }: Inode): string {
  return `ext4 inode ${number}`;
}
