import { assert, defined } from '../../util/assert.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { ConvertError } from '../errors.ts';
import type { ByteString } from '../tar/tar-entry.ts';
import { BLOCK_BYTES, type BlockFile } from './block-file.ts';
import {
  bytesOfString,
  Directory,
  type DirectoryBlocks,
  type DirectoryEntry,
} from './directory.ts';
import { Inode, INODE_BYTES } from './inode.ts';
import { IoManager } from '../native/io-manager.ts';
import { check, libext2fs, type Library, type Pointer } from '../native/libext2fs.ts';
import { FILESYSTEM_TIME_SECONDS, fixedTimeEnvironment } from './make.ts';

/** The root directory. */
export const ROOT_INODE = 2;

const LOST_AND_FOUND = 'lost+found';

const OPEN_FLAGS = { write: 0x1, masterSuperblockOnly: 0x200, wide: 0x2_0000 };
const CLOSE_WITHOUT_SYNC = 1;
const ALLOCATE_FLAGS = { initialized: 2, beyondEnd: 8 };
const GOAL_FROM_INODE = 0xffff_ffff_ffff_ffffn;
const END_OF_FILE = 0xffff_ffff_ffff_ffffn;
const HASH_HALF_MD4 = 1;
const SUPERBLOCK = { block: 0, offset: 1024, hashSeed: 0xec };

/** Directories, and names in them (about 150 bytes each), in memory before the oldest are saved. */
const LOADED_DIRECTORIES = 16_384;
const LOADED_NAMES = 500_000;

/**
 * An ext4 file system in a file, written by libext2fs: no mount, no root. What it is asked to write
 * reaches no other file system. Not for two processes at once.
 *
 * Life: `open()` -> changes -> `close()`, which writes all. After an error the file is unusable.
 * Throws ConvertError.
 */
export class Ext4 {
  readonly #disk: BlockFile;
  readonly #library: Library;
  readonly #manager: IoManager;
  readonly #fs: Pointer;
  readonly #hashSeed: Uint8Array;
  /** Directories in use, by inode; others are written and forgotten. */
  readonly #directories = new BoundedMap<number, Directory>({
    entriesMax: LOADED_DIRECTORIES,
    evict: 'use',
    sizeMax: LOADED_NAMES,
    // The directory in use stays, however large it is.
    sizeOf: (directory) => Math.min(directory.count, LOADED_NAMES / 2),
    onEvict: (_number, directory) => this.#save(directory),
  });

  private constructor(disk: BlockFile, library: Library, manager: IoManager, fs: Pointer) {
    this.#disk = disk;
    this.#library = library;
    this.#manager = manager;
    this.#fs = fs;
    const superblock = disk.block(SUPERBLOCK.block);
    const seed = SUPERBLOCK.offset + SUPERBLOCK.hashSeed;
    this.#hashSeed = Uint8Array.from(superblock.subarray(seed, seed + 16));
  }

  static open(disk: BlockFile): Ext4 {
    // The library reads the time from the environment of the process.
    Object.assign(process.env, fixedTimeEnvironment());
    const library = libext2fs();
    const manager = new IoManager(disk);
    const { write, masterSuperblockOnly, wide } = OPEN_FLAGS;
    const result: [Pointer | null] = [null];
    const flags = write | masterSuperblockOnly | wide;
    try {
      check(
        library.ext2fs_open2('disk', null, flags, 0, 0, manager.pointer, result),
        'open the file system',
      );
      const fs = defined(result[0], 'an open file system');
      check(library.ext2fs_read_bitmaps(fs), 'read the bitmaps of the file system');
      return new Ext4(disk, library, manager, fs);
    } catch (error) {
      manager.close();
      throw error;
    }
  }

  /** Removes the folder that mke2fs makes for e2fsck: an image has what its layers have. */
  removeLostAndFound(): void {
    const root = this.directory(ROOT_INODE);
    const entry = root.get(LOST_AND_FOUND);
    if (entry === undefined) return;
    root.remove(LOST_AND_FOUND);
    this.removeInode(entry.inode);
    const inode = this.readInode(ROOT_INODE);
    inode.linkCount--;
    this.writeInode(ROOT_INODE, inode);
  }

  readInode(number: number): Inode {
    const bytes = new Uint8Array(INODE_BYTES);
    this.#check(
      this.#library.ext2fs_read_inode_full(this.#fs, number, bytes, INODE_BYTES),
      'read an inode',
    );
    return new Inode(bytes);
  }

  writeInode(number: number, inode: Inode): void {
    this.#check(
      this.#library.ext2fs_write_inode_full(this.#fs, number, inode.bytes, INODE_BYTES),
      'write an inode',
    );
  }

  /** Takes a free inode near the directory, and writes it. */
  addInode(directory: number, inode: Inode): number {
    const result: [number] = [0];
    this.#check(
      this.#library.ext2fs_new_inode(this.#fs, directory, inode.mode, null, result),
      'add a file (the file system has no free inode)',
    );
    const [number] = result;
    const isDirectory = inode.type === 'directory' ? 1 : 0;
    this.#library.ext2fs_inode_alloc_stats2(this.#fs, number, 1, isDirectory);
    this.writeInode(number, inode);
    return number;
  }

  /** Frees the inode and its blocks; no directory may name it. */
  removeInode(number: number): void {
    const inode = this.readInode(number);
    const { type } = inode;
    if (type === 'directory') this.#directories.delete(number);
    const { bytes } = inode;
    this.#check(
      this.#library.ext2fs_free_ext_attr(this.#fs, number, bytes),
      'free extended attributes',
    );
    if (inode.hasExtents) {
      this.#check(
        this.#library.ext2fs_punch(this.#fs, number, bytes, null, 0, END_OF_FILE),
        'free the blocks of a file',
      );
    }
    inode.linkCount = 0;
    inode.setDeleted(FILESYSTEM_TIME_SECONDS);
    this.writeInode(number, inode);
    this.#library.ext2fs_inode_alloc_stats2(this.#fs, number, -1, type === 'directory' ? 1 : 0);
  }

  /**
   * Writes whole blocks of a file that has none there, from block `first` of it on. The caller sets
   * the size.
   */
  writeContent(number: number, first: number, bytes: Uint8Array): void {
    assert(bytes.length % BLOCK_BYTES === 0, 'content comes in whole blocks');
    const count = bytes.length / BLOCK_BYTES;
    this.#allocate(number, first, count);
    let run = { block: this.#blockOf(number, first), from: 0 };
    for (let i = 1; i <= count; i++) {
      const block = i < count ? this.#blockOf(number, first + i) : -1;
      if (block === run.block + i - run.from) continue;
      this.#disk.writeContent(run.block, bytes.subarray(run.from * BLOCK_BYTES, i * BLOCK_BYTES));
      run = { block, from: i };
    }
  }

  /** The content of a file without holes. */
  readContent(number: number, sizeBytes: number): Uint8Array {
    const bytes = new Uint8Array(Math.ceil(sizeBytes / BLOCK_BYTES) * BLOCK_BYTES);
    for (let at = 0; at < bytes.length; at += BLOCK_BYTES) {
      bytes.set(this.#disk.block(this.#blockOf(number, at / BLOCK_BYTES)), at);
    }
    return bytes.subarray(0, sizeBytes);
  }

  /**
   * Sets extended attributes, by their full names; `others` says what becomes of those that the
   * inode has: `none` if it has none. Throws ConvertError when they do not fit.
   */
  setAttributes(
    number: number,
    attributes: ReadonlyMap<ByteString, Uint8Array>,
    { others }: { others: 'none' | 'kept' | 'removed' },
  ): void {
    if (attributes.size === 0 && others !== 'removed') return;
    const result: [Pointer | null] = [null];
    const library = this.#library;
    this.#check(library.ext2fs_xattrs_open(this.#fs, number, result), 'open extended attributes');
    const handle = defined(result[0], 'an open handle');
    try {
      // A write replaces what the handle has not read.
      if (others === 'kept') {
        this.#check(library.ext2fs_xattrs_read(handle), 'read extended attributes');
      }
      if (attributes.size === 0) {
        this.#check(library.ext2fs_xattrs_write(handle), 'remove extended attributes');
      }
      for (const [name, value] of [...attributes].sort(([a], [b]) => (a < b ? -1 : 1))) {
        this.#check(
          library.ext2fs_xattr_set(handle, bytesOfString(`${name}\0`), value, value.length),
          `set the extended attribute ${JSON.stringify(name)}`,
        );
      }
    } finally {
      library.ext2fs_xattrs_close([handle]);
    }
  }

  /** Adds an empty directory whose inode is written. */
  addDirectory(number: number, parent: number): Directory {
    const directory = Directory.make(this.#blocksOf(number), { self: number, parent });
    this.#directories.set(number, directory);
    return directory;
  }

  /** The directory with this inode. */
  directory(number: number): Directory {
    const known = this.#directories.get(number);
    if (known !== undefined) return known;
    const inode = this.readInode(number);
    const directory = Directory.load(this.#blocksOf(number), {
      self: number,
      blockCount: inode.sizeBytes / BLOCK_BYTES,
      isIndexed: inode.isIndexed,
    });
    this.#directories.set(number, directory);
    return directory;
  }

  /** Adds a name to a directory, which has none such. */
  addName(number: number, name: ByteString, entry: DirectoryEntry): void {
    const directory = this.directory(number);
    directory.add(name, entry);
    // Its size has changed.
    this.#directories.set(number, directory);
  }

  /** Writes all, and closes the file system, not the disk. */
  close(): void {
    try {
      for (const [, directory] of this.#directories) this.#save(directory);
      this.#check(
        this.#library.ext2fs_close2(this.#fs, CLOSE_WITHOUT_SYNC),
        'write the file system',
      );
      this.#disk.flush();
    } finally {
      this.#manager.close();
    }
  }

  /** Gives up: the file is unusable afterwards. */
  abandon(): void {
    this.#library.ext2fs_free(this.#fs);
    this.#manager.close();
  }

  #save(directory: Directory): void {
    if (!directory.isDirty) return;
    directory.save();
    const inode = this.readInode(directory.self);
    inode.sizeBytes = directory.blockCount * BLOCK_BYTES;
    if (directory.isIndexed) inode.setIndexed();
    this.writeInode(directory.self, inode);
  }

  #blocksOf(number: number): DirectoryBlocks {
    return {
      read: (index) => this.#disk.block(this.#blockOf(number, index)),
      write: (index, bytes) => {
        let block = this.#blockOf(number, index);
        if (block === 0) {
          this.#allocate(number, index, 1);
          block = this.#blockOf(number, index);
        }
        this.#disk.write(block, bytes);
      },
      hash: (name) => {
        const bytes = bytesOfString(name);
        const [hash, minor]: [[number], [number]] = [[0], [0]];
        const { length } = bytes;
        this.#library.ext2fs_dirhash2(
          HASH_HALF_MD4,
          bytes,
          length,
          null,
          0,
          this.#hashSeed,
          hash,
          minor,
        );
        return hash[0];
      },
    };
  }

  /** Blocks that libext2fs marks as written, although their bytes come later. */
  #allocate(number: number, first: number, count: number): void {
    const { initialized, beyondEnd } = ALLOCATE_FLAGS;
    this.#check(
      this.#library.ext2fs_fallocate(
        this.#fs,
        initialized | beyondEnd,
        number,
        null,
        GOAL_FROM_INODE,
        first,
        count,
      ),
      'find free blocks (the image is larger than its device; choose a larger --size)',
    );
  }

  /** Block of the device with block `index` of a file; 0 when it has none. */
  #blockOf(number: number, index: number): number {
    const result: [number] = [0];
    this.#check(
      this.#library.ext2fs_bmap2(this.#fs, number, null, null, 0, index, null, result),
      'find a block of a file',
    );
    return result[0];
  }

  /** An error that happened below libext2fs says more than its number. */
  #check(code: number, what: string): void {
    if (code === 0) return;
    if (this.#manager.failure instanceof ConvertError) throw this.#manager.failure;
    check(code, what);
  }
}
