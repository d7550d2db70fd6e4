import koffi from 'koffi';
import { ConvertError } from '../errors.ts';

/** Library of Debian's package libext2fs2, a part of e2fsprogs. */
const LIBRARY = 'libext2fs.so.2';

/** A pointer into the library's memory. */
export type Pointer = bigint;

/**
 * Calls of libext2fs, with the names of the library. Each gives 0 or a number of com_err; see
 * ext2fs.h of e2fsprogs 1.47.
 */
export interface Library {
  ext2fs_open2(
    name: string,
    options: null,
    flags: number,
    superblock: number,
    blockSize: number,
    manager: Pointer,
    result: [Pointer | null],
  ): number;
  ext2fs_read_bitmaps(fs: Pointer): number;
  ext2fs_close2(fs: Pointer, flags: number): number;
  ext2fs_free(fs: Pointer): void;
  ext2fs_new_inode(
    fs: Pointer,
    directory: number,
    mode: number,
    map: null,
    result: [number],
  ): number;
  ext2fs_inode_alloc_stats2(fs: Pointer, inode: number, inUse: number, isDirectory: number): void;
  ext2fs_read_inode_full(fs: Pointer, inode: number, bytes: Uint8Array, size: number): number;
  ext2fs_write_inode_full(fs: Pointer, inode: number, bytes: Uint8Array, size: number): number;
  ext2fs_fallocate(
    fs: Pointer,
    flags: number,
    inode: number,
    bytes: null,
    goal: bigint,
    start: number,
    count: number,
  ): number;
  ext2fs_bmap2(
    fs: Pointer,
    inode: number,
    bytes: null,
    buffer: null,
    flags: number,
    block: number,
    resultFlags: null,
    result: [number],
  ): number;
  ext2fs_punch(
    fs: Pointer,
    inode: number,
    bytes: Uint8Array,
    buffer: null,
    start: number,
    end: bigint,
  ): number;
  ext2fs_free_ext_attr(fs: Pointer, inode: number, bytes: Uint8Array): number;
  ext2fs_xattrs_open(fs: Pointer, inode: number, result: [Pointer | null]): number;
  ext2fs_xattr_set(handle: Pointer, name: Uint8Array, value: Uint8Array, length: number): number;
  ext2fs_xattrs_read(handle: Pointer): number;
  ext2fs_xattrs_write(handle: Pointer): number;
  ext2fs_xattrs_close(handle: [Pointer | null]): number;
  ext2fs_dirhash2(
    version: number,
    name: Uint8Array,
    length: number,
    charset: null,
    flags: number,
    seed: Uint8Array,
    hash: [number],
    minor: [number],
  ): number;
  error_message(code: number): string;
}

const DECLARATIONS = [
  'long ext2fs_open2(const char *name, void *options, int flags, int superblock, ' +
    'unsigned int blockSize, void *manager, _Out_ void **result)',
  'long ext2fs_read_bitmaps(void *fs)',
  'long ext2fs_close2(void *fs, int flags)',
  'void ext2fs_free(void *fs)',
  'long ext2fs_new_inode(void *fs, uint32_t directory, int mode, void *map, ' +
    '_Out_ uint32_t *result)',
  'void ext2fs_inode_alloc_stats2(void *fs, uint32_t inode, int inUse, int isDirectory)',
  'long ext2fs_read_inode_full(void *fs, uint32_t inode, uint8_t *bytes, int size)',
  'long ext2fs_write_inode_full(void *fs, uint32_t inode, uint8_t *bytes, int size)',
  'long ext2fs_fallocate(void *fs, int flags, uint32_t inode, void *bytes, uint64_t goal, ' +
    'uint64_t start, uint64_t count)',
  'long ext2fs_bmap2(void *fs, uint32_t inode, void *bytes, void *buffer, int flags, ' +
    'uint64_t block, void *resultFlags, _Out_ uint64_t *result)',
  'long ext2fs_punch(void *fs, uint32_t inode, uint8_t *bytes, void *buffer, uint64_t start, ' +
    'uint64_t end)',
  'long ext2fs_free_ext_attr(void *fs, uint32_t inode, uint8_t *bytes)',
  'long ext2fs_xattrs_open(void *fs, uint32_t inode, _Out_ void **result)',
  'long ext2fs_xattr_set(void *handle, uint8_t *name, uint8_t *value, size_t length)',
  'long ext2fs_xattrs_read(void *handle)',
  'long ext2fs_xattrs_write(void *handle)',
  'long ext2fs_xattrs_close(_Inout_ void **handle)',
  'long ext2fs_dirhash2(int version, uint8_t *name, int length, void *charset, int flags, ' +
    'uint8_t *seed, _Out_ uint32_t *hash, _Out_ uint32_t *minor)',
] as const;

let loaded: Library | undefined;

/** The library, loaded at the first call. Throws ConvertError when it is not installed. */
export function libext2fs(): Library {
  loaded ??= load();
  return loaded;
}

function load(): Library {
  try {
    const library = koffi.load(LIBRARY);
    const functions = DECLARATIONS.map((text) => library.func(text));
    const errors = koffi.load('libcom_err.so.2');
    functions.push(errors.func('const char *error_message(long code)'));
    return Object.fromEntries(
      functions.map((call) => [call.info.name, call]),
    ) as unknown as Library;
  } catch (cause) {
    throw new ConvertError(
      `cannot load ${LIBRARY}: install the package e2fsprogs`,
      { code: 'tool', program: LIBRARY },
      { cause },
    );
  }
}

/** Throws ConvertError when a call failed. */
export function check(code: number, what: string): void {
  if (code === 0) return;
  throw new ConvertError(`cannot ${what}: ${libext2fs().error_message(code)}`, {
    code: 'filesystem',
    number: code,
  });
}
