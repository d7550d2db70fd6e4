import { viewOf } from '../../image/binary.ts';
import { assert, defined } from '../../util/assert.ts';
import { ConvertError } from '../errors.ts';
import type { ByteString } from '../tar/tar-entry.ts';
import { byteString } from '../tar/tar-header.ts';
import { BLOCK_BYTES } from './block-file.ts';

/** Longest name in a directory, in bytes. */
export const NAME_BYTES_MAX = 255;

/** What a name in a directory stands for. */
export interface DirectoryEntry {
  readonly inode: number;
  /** As in `ENTRY_TYPE`. */
  readonly type: number;
}

/** The blocks of one directory, and the hash of its file system. */
export interface DirectoryBlocks {
  /** Block `index` of the directory. */
  read(index: number): Uint8Array;
  write(index: number, bytes: Uint8Array): void;
  /** Hash of a name; its lowest bit is 0. */
  hash(name: ByteString): number;
}

const HEADER_BYTES = 8;
const DOT_BYTES = 24;
const HASH_HALF_MD4 = 1;
const INFO_BYTES = 8;
const ROOT_ENTRIES_OFFSET = DOT_BYTES + INFO_BYTES;
const ROOT_ENTRIES_MAX = (BLOCK_BYTES - ROOT_ENTRIES_OFFSET) / 8;
const NODE_ENTRIES_MAX = (BLOCK_BYTES - HEADER_BYTES) / 8;
const DIRECTORY_TYPE = 2;

/** Leaves of a new index are filled to three quarters, nodes to four fifths: names come later. */
const LEAF_FILL_BYTES = (BLOCK_BYTES * 3) / 4;
const NODE_FILL = Math.floor((NODE_ENTRIES_MAX * 4) / 5);

/** A block of names in an indexed directory: those with a hash from `key` on. */
interface Leaf {
  /** Lowest hash; bit 0 says that names of this hash are in the leaf before, too. */
  key: number;
  readonly index: number;
  readonly names: Set<ByteString>;
  usedBytes: number;
  isDirty: boolean;
}

interface Named extends DirectoryEntry {
  readonly leaf: Leaf | undefined;
}

/**
 * A directory of ext4 in memory. One that fits in a block is a list; a larger one has a hash index
 * (kernel: Documentation/filesystems/ext4/directory.rst), of which `save()` writes the changed
 * blocks alone. The same calls give the same bytes.
 */
export class Directory {
  readonly self: number;
  readonly parent: number;
  readonly #blocks: DirectoryBlocks;
  readonly #entries = new Map<ByteString, Named>();
  /** Ascending by key; empty while the directory is a list. */
  #leaves: Leaf[] = [];
  #nodeIndexes: number[] = [];
  #blockCount: number;
  #listBytes = DOT_BYTES;
  #isDirty = false;

  private constructor(
    blocks: DirectoryBlocks,
    place: { self: number; parent: number; blockCount: number },
  ) {
    this.#blocks = blocks;
    this.self = place.self;
    this.parent = place.parent;
    this.#blockCount = place.blockCount;
  }

  /** A new, empty directory, without a block until it is saved. */
  static make(blocks: DirectoryBlocks, place: { self: number; parent: number }): Directory {
    const directory = new Directory(blocks, { ...place, blockCount: 0 });
    directory.#isDirty = true;
    return directory;
  }

  /** Reads a directory that this class wrote, or a list of one block. Throws ConvertError. */
  static load(
    blocks: DirectoryBlocks,
    place: { self: number; blockCount: number; isIndexed: boolean },
  ): Directory {
    const { self, blockCount, isIndexed } = place;
    const root = blocks.read(0);
    const parent = viewOf(root).getUint32(12, true);
    const directory = new Directory(blocks, { self, parent, blockCount });
    if (isIndexed) directory.#loadIndex(root);
    else if (blockCount === 1) {
      const afterDots = 12 + viewOf(root).getUint16(16, true);
      directory.#loadNames(root, afterDots, undefined);
    } else throw damaged(self, 'it is a list of several blocks');
    return directory;
  }

  get count(): number {
    return this.#entries.size;
  }

  get blockCount(): number {
    return this.#blockCount;
  }

  get isIndexed(): boolean {
    return this.#leaves.length > 0;
  }

  get isDirty(): boolean {
    return this.#isDirty;
  }

  get(name: ByteString): DirectoryEntry | undefined {
    return this.#entries.get(name);
  }

  /** The names, without `.` and `..`. */
  entries(): IterableIterator<[ByteString, DirectoryEntry]> {
    return this.#entries.entries();
  }

  /** Adds a name that is not there. */
  add(name: ByteString, entry: DirectoryEntry): void {
    assert(!this.#entries.has(name), 'a name stands once in a directory');
    assert(name.length > 0 && name.length <= NAME_BYTES_MAX, 'a name has 1 to 255 bytes');
    this.#isDirty = true;
    const bytes = entryBytes(name);
    if (!this.isIndexed) {
      this.#entries.set(name, { ...entry, leaf: undefined });
      this.#listBytes += bytes;
      return;
    }
    let leaf = this.#leafOf(this.#blocks.hash(name));
    if (leaf.usedBytes + bytes > BLOCK_BYTES) {
      this.#split(leaf);
      leaf = this.#leafOf(this.#blocks.hash(name));
    }
    this.#place(leaf, name, entry);
  }

  /** Removes a name that is there. */
  remove(name: ByteString): void {
    const entry = defined(this.#entries.get(name), 'the name is in the directory');
    this.#isDirty = true;
    this.#entries.delete(name);
    const { leaf } = entry;
    if (leaf === undefined) {
      this.#listBytes -= entryBytes(name);
      return;
    }
    leaf.names.delete(name);
    leaf.usedBytes -= entryBytes(name);
    leaf.isDirty = true;
  }

  /** Writes what changed. The directory may have more blocks, and an index, afterwards. */
  save(): void {
    if (!this.#isDirty) return;
    this.#isDirty = false;
    if (!this.isIndexed) {
      this.#blockCount = Math.max(this.#blockCount, 1);
      if (this.#listBytes <= BLOCK_BYTES) {
        const names = this.#encode(this.#entries.keys(), DOT_BYTES);
        this.#blocks.write(0, this.#withDots(names, this.#entries.size === 0));
        return;
      }
      this.#makeIndex();
    }
    for (const leaf of this.#leaves) {
      if (leaf.isDirty) this.#blocks.write(leaf.index, this.#encode(leaf.names, 0));
      leaf.isDirty = false;
    }
    this.#writeIndex();
  }

  /** Sorts the names of a list by their hashes into leaves. */
  #makeIndex(): void {
    const hashed = [...this.#entries].map(([name, entry]) => ({
      name,
      entry,
      hash: this.#blocks.hash(name),
    }));
    hashed.sort((a, b) => a.hash - b.hash);
    let leaf = this.#newLeaf(0);
    this.#leaves = [leaf];
    let last = -1;
    for (const { name, entry, hash } of hashed) {
      const isFull = leaf.usedBytes + entryBytes(name) > LEAF_FILL_BYTES;
      if (isFull && (hash !== last || leaf.usedBytes + entryBytes(name) > BLOCK_BYTES)) {
        leaf = this.#newLeaf(hash === last ? hash | 1 : hash);
        this.#leaves.push(leaf);
      }
      this.#place(leaf, name, entry);
      last = hash;
    }
  }

  #newLeaf(key: number): Leaf {
    const index = this.#blockCount++;
    return { key, index, names: new Set(), usedBytes: 0, isDirty: true };
  }

  #place(leaf: Leaf, name: ByteString, { inode, type }: DirectoryEntry): void {
    this.#entries.set(name, { inode, type, leaf });
    leaf.names.add(name);
    leaf.usedBytes += entryBytes(name);
    leaf.isDirty = true;
  }

  /** The last leaf whose hashes begin at or below this one. */
  #leafOf(hash: number): Leaf {
    let low = 0;
    let high = this.#leaves.length;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if (this.#keyOf(middle) - (this.#keyOf(middle) & 1) <= hash) low = middle;
      else high = middle;
    }
    return defined(this.#leaves[low], 'an index has a leaf');
  }

  #keyOf(row: number): number {
    return defined(this.#leaves[row], 'the row is in the index').key;
  }

  /** Moves the upper half of a leaf's names into a new leaf after it. */
  #split(leaf: Leaf): void {
    const hashed = [...leaf.names].map((name) => ({ name, hash: this.#blocks.hash(name) }));
    hashed.sort((a, b) => a.hash - b.hash);
    let bytes = 0;
    const middle = hashed.findIndex(({ name }) => (bytes += entryBytes(name)) > BLOCK_BYTES / 2);
    const first = defined(hashed[middle], 'a full leaf has names').hash;
    const isShared = hashed[middle - 1]?.hash === first;
    const upper = this.#newLeaf(isShared ? first | 1 : first);
    for (const { name } of hashed.slice(middle)) {
      const entry = defined(this.#entries.get(name), 'names of leaves are names of the directory');
      leaf.names.delete(name);
      this.#place(upper, name, entry);
    }
    leaf.usedBytes -= upper.usedBytes;
    leaf.isDirty = true;
    this.#leaves.splice(this.#leaves.indexOf(leaf) + 1, 0, upper);
  }

  /** Root of the index, and its nodes when there are more leaves than the root can name. */
  #writeIndex(): void {
    const leaves = this.#leaves.map(({ key, index }) => ({ key, index }));
    if (leaves.length <= ROOT_ENTRIES_MAX) {
      this.#blocks.write(0, this.#root(leaves, 0));
      return;
    }
    const nodes: { key: number; index: number }[] = [];
    for (let from = 0; from < leaves.length; from += NODE_FILL) {
      const part = leaves.slice(from, from + NODE_FILL);
      const index = (this.#nodeIndexes[nodes.length] ??= this.#blockCount++);
      nodes.push({ key: defined(part[0], 'a node has leaves').key, index });
      const bytes = new Uint8Array(BLOCK_BYTES);
      viewOf(bytes).setUint16(4, BLOCK_BYTES, true);
      putIndexEntries(bytes, part, { offset: HEADER_BYTES, limit: NODE_ENTRIES_MAX });
      this.#blocks.write(index, bytes);
    }
    if (nodes.length > ROOT_ENTRIES_MAX) {
      throw new ConvertError(`a directory with ${this.count} names is too large for ext4`, {
        code: 'too-large',
        value: this.count,
      });
    }
    this.#blocks.write(0, this.#root(nodes, 1));
  }

  #root(entries: readonly { key: number; index: number }[], levels: number): Uint8Array {
    const bytes = this.#withDots(new Uint8Array(BLOCK_BYTES), true);
    bytes[DOT_BYTES + 4] = HASH_HALF_MD4;
    bytes[DOT_BYTES + 5] = INFO_BYTES;
    bytes[DOT_BYTES + 6] = levels;
    putIndexEntries(bytes, entries, { offset: ROOT_ENTRIES_OFFSET, limit: ROOT_ENTRIES_MAX });
    return bytes;
  }

  /** Adds `.` and `..` to the first block; `..` is long when no other name follows. */
  #withDots(bytes: Uint8Array, isLast: boolean): Uint8Array {
    const dots = { type: DIRECTORY_TYPE };
    putEntry(bytes, 0, { ...dots, name: '.', inode: this.self, length: 12 });
    const length = isLast ? BLOCK_BYTES - 12 : 12;
    putEntry(bytes, 12, { ...dots, name: '..', inode: this.parent, length });
    return bytes;
  }

  /** A block with the names from `offset` on; the last one reaches to the end of the block. */
  #encode(names: Iterable<ByteString>, offset: number): Uint8Array {
    const bytes = new Uint8Array(BLOCK_BYTES);
    let last = -1;
    for (const name of names) {
      const { inode, type } = defined(this.#entries.get(name), 'the name has an entry');
      const length = entryBytes(name);
      putEntry(bytes, offset, { name, inode, type, length });
      last = offset;
      offset += length;
    }
    if (last >= 0) viewOf(bytes).setUint16(last + 4, BLOCK_BYTES - last, true);
    else if (offset === 0) viewOf(bytes).setUint16(4, BLOCK_BYTES, true);
    return bytes;
  }

  #loadIndex(root: Uint8Array): void {
    const rows = indexEntries(root, ROOT_ENTRIES_OFFSET, this.self);
    const hasNodes = root[DOT_BYTES + 6] === 1;
    if (hasNodes) this.#nodeIndexes = rows.map(({ index }) => index);
    const leaves = hasNodes
      ? rows.flatMap(({ key, index }) =>
          indexEntries(this.#blocks.read(index), HEADER_BYTES, this.self, key),
        )
      : rows;
    this.#leaves = leaves.map(({ key, index }) => {
      return { key, index, names: new Set(), usedBytes: 0, isDirty: false };
    });
    for (const leaf of this.#leaves) this.#loadNames(this.#blocks.read(leaf.index), 0, leaf);
  }

  #loadNames(bytes: Uint8Array, start: number, leaf: Leaf | undefined): void {
    const view = viewOf(bytes);
    for (let offset = start; offset < BLOCK_BYTES; ) {
      const length = view.getUint16(offset + 4, true);
      const inode = view.getUint32(offset, true);
      const nameLength = bytes[offset + 6] ?? 0;
      if (length < HEADER_BYTES + nameLength || offset + length > BLOCK_BYTES) {
        throw damaged(this.self, `an entry has ${length} bytes`);
      }
      if (inode !== 0) {
        const from = offset + HEADER_BYTES;
        const name = byteString(bytes.subarray(from, from + nameLength));
        this.#entries.set(name, { inode, type: bytes[offset + 7] ?? 0, leaf });
        if (leaf === undefined) this.#listBytes += entryBytes(name);
        else {
          leaf.names.add(name);
          leaf.usedBytes += entryBytes(name);
        }
      }
      offset += length;
    }
  }
}

/** The bytes that a string of bytes stands for. */
export function bytesOfString(text: ByteString): Uint8Array {
  return Buffer.from(text, 'latin1');
}

function entryBytes(name: ByteString): number {
  return (HEADER_BYTES + name.length + 3) & ~3;
}

function putEntry(
  bytes: Uint8Array,
  offset: number,
  entry: { name: ByteString; inode: number; type: number; length: number },
): void {
  const view = viewOf(bytes);
  view.setUint32(offset, entry.inode, true);
  view.setUint16(offset + 4, entry.length, true);
  bytes[offset + 6] = entry.name.length;
  bytes[offset + 7] = entry.type;
  bytes.set(bytesOfString(entry.name), offset + HEADER_BYTES);
}

/** The first entry has the counts in place of its hash, which is below all others. */
function putIndexEntries(
  bytes: Uint8Array,
  entries: readonly { key: number; index: number }[],
  place: { offset: number; limit: number },
): void {
  const view = viewOf(bytes);
  entries.forEach(({ key, index }, i) => {
    view.setUint32(place.offset + 8 * i, key, true);
    view.setUint32(place.offset + 8 * i + 4, index, true);
  });
  view.setUint16(place.offset, place.limit, true);
  view.setUint16(place.offset + 2, entries.length, true);
}

function indexEntries(
  bytes: Uint8Array,
  offset: number,
  self: number,
  firstKey = 0,
): { key: number; index: number }[] {
  const view = viewOf(bytes);
  const count = view.getUint16(offset + 2, true);
  if (offset + 8 * count > BLOCK_BYTES) throw damaged(self, `its index has ${count} entries`);
  return Array.from({ length: count }, (_, i) => ({
    key: i === 0 ? firstKey : view.getUint32(offset + 8 * i, true),
    index: view.getUint32(offset + 8 * i + 4, true),
  }));
}

function damaged(inode: number, why: string): ConvertError {
  return new ConvertError(`directory ${inode} of the file system is damaged: ${why}`, {
    code: 'filesystem',
    number: 0,
  });
}
