import { viewOf } from '../../image/binary.ts';
import { damaged, outOfRange } from '../../image/errors.ts';

const MAGIC = 0xf30a;
const HEADER_BYTES = 12;
const ENTRY_BYTES = 12;

/** The kernel's EXT4_MAX_EXTENT_DEPTH. */
const DEPTH_MAX = 5;

/** Longer lengths mean an extent without data, of that length less this. */
const UNWRITTEN = 32_768;

/** Blocks of a file that lie together. */
export interface Extent {
  /** First block in the file. */
  readonly logical: number;
  readonly count: number;
  /** First block in the file system; undefined where the file reads as zeros. */
  readonly physical: number | undefined;
}

/** Reads blocks, and knows how many there are. */
export interface BlockReader {
  readonly blockCount: number;
  readBlock(block: number): Promise<Uint8Array>;
}

/**
 * The extents of a file in order, without overlap. `root` is what the inode has. Each node must
 * lead on in the file, so that no node is visited twice. Throws ImageError.
 */
export async function* extentsOf(
  reader: BlockReader,
  root: Uint8Array,
  part: string,
): AsyncGenerator<Extent, void> {
  const walk = new ExtentWalk(reader, part);
  yield* walk.node(root, undefined);
}

class ExtentWalk {
  readonly #reader: BlockReader;
  readonly #part: string;
  /** First block in the file that was not yet seen. */
  #next = 0;

  constructor(reader: BlockReader, part: string) {
    this.#reader = reader;
    this.#part = part;
  }

  async *node(bytes: Uint8Array, depthWanted: number | undefined): AsyncGenerator<Extent, void> {
    const view = viewOf(bytes);
    const count = view.getUint16(2, true);
    const depth = view.getUint16(6, true);
    if (view.getUint16(0, true) !== MAGIC) throw this.#damaged('a node has no magic number');
    if (HEADER_BYTES + count * ENTRY_BYTES > bytes.length) {
      throw outOfRange(`${this.#part} count of extents`, count, 'they must fit into their node');
    }
    if (depth > DEPTH_MAX || (depthWanted !== undefined && depth !== depthWanted)) {
      throw this.#damaged(`a node has the depth ${depth}`);
    }
    if (count === 0 && depthWanted !== undefined) throw this.#damaged('a node is empty');
    for (let at = HEADER_BYTES; at < HEADER_BYTES + count * ENTRY_BYTES; at += ENTRY_BYTES) {
      if (depth === 0) yield this.#extent(view, at);
      else yield* this.node(await this.#child(view, at), depth - 1);
    }
  }

  #child(view: DataView, at: number): Promise<Uint8Array> {
    const logical = view.getUint32(at, true);
    if (logical < this.#next) throw this.#damaged('its extents are out of order');
    const block = view.getUint32(at + 4, true) + view.getUint16(at + 8, true) * 2 ** 32;
    return this.#reader.readBlock(this.#checked(block, 1));
  }

  #extent(view: DataView, at: number): Extent {
    const logical = view.getUint32(at, true);
    const length = view.getUint16(at + 4, true);
    const isUnwritten = length > UNWRITTEN;
    const count = isUnwritten ? length - UNWRITTEN : length;
    if (count === 0 || logical < this.#next) throw this.#damaged('its extents are out of order');
    this.#next = logical + count;
    const block = view.getUint32(at + 8, true) + view.getUint16(at + 6, true) * 2 ** 32;
    const physical = this.#checked(block, count);
    return { logical, count, physical: isUnwritten ? undefined : physical };
  }

  #checked(block: number, count: number): number {
    if (block > 0 && block + count <= this.#reader.blockCount) return block;
    const rule = `the file system has ${this.#reader.blockCount} blocks`;
    throw outOfRange(`${this.#part} block`, block, rule);
  }

  #damaged(what: string): Error {
    return damaged(this.#part, what);
  }
}
