/**
 * Major version of the FUSE protocol. This file has the part that a read-only file needs: numbers
 * and structures of include/uapi/linux/fuse.h. Integers are in host byte order, which is
 * little-endian wherever Node runs on Linux today (x86-64, arm64).
 *
 *     request  len u32 | opcode u32 | unique u64 | nodeid u64 | uid, gid, pid u32
 *              extlen u16, pad u16 | body
 *      answer   len u32 | -errno i32 | unique u64 | body
 */
export const FUSE_MAJOR = 7;

/** The minor version that Xylem speaks; the kernel uses the lower of both. 38 is Linux 6.3. */
export const FUSE_MINOR = 38;

/** The first minor version whose INIT answer has today's size of 64 bytes (Linux 3.15). */
export const FUSE_MINOR_MIN = 23;

/** Bytes of the header of a request. */
export const IN_HEADER_BYTES = 40;
/** Bytes of the header of an answer. */
export const OUT_HEADER_BYTES = 16;

/** Bytes of the buffer for a request: the kernel requires at least 8 KiB (FUSE_MIN_READ_BUFFER). */
export const REQUEST_BYTES_MAX = 8192;

/**
 * Largest read, in bytes: 256 pages (max_pages) of 4 KiB. One answer then covers four blocks of a
 * blob.
 */
export const READ_BYTES_MAX = 256 * 4096;

/**
 * Most background requests in flight; the kernel queues the rest (its default is 12). Direct reads
 * count as background requests. 64 reads of 1 MiB bound the memory of one mount to 64 MiB; more
 * gains nothing beyond queue depth 32.
 */
export const BACKGROUND_MAX = 64;

/** Opcodes of requests. */
export const OP = {
  lookup: 1,
  forget: 2,
  getattr: 3,
  setattr: 4,
  symlink: 6,
  mknod: 8,
  mkdir: 9,
  unlink: 10,
  rmdir: 11,
  rename: 12,
  link: 13,
  open: 14,
  read: 15,
  write: 16,
  statfs: 17,
  release: 18,
  fsync: 20,
  setxattr: 21,
  removexattr: 24,
  flush: 25,
  init: 26,
  opendir: 27,
  readdir: 28,
  releasedir: 29,
  fsyncdir: 30,
  access: 34,
  create: 35,
  interrupt: 36,
  destroy: 38,
  batchForget: 42,
  fallocate: 43,
  rename2: 45,
  copyFileRange: 47,
  tmpfile: 51,
} as const;

/** Error numbers of Linux that answers carry. */
export const ERRNO = {
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  EISDIR: 21,
  EINVAL: 22,
  ENOSPC: 28,
  EROFS: 30,
  ENOSYS: 38,
  EPROTO: 71,
  EOPNOTSUPP: 95,
} as const;

/** Number of a request: a u64 of the kernel in two halves, since only equality matters. */
export interface Unique {
  readonly low: number;
  readonly high: number;
}

/** The header of a request, and a view of its body. */
export interface FuseRequest {
  readonly opcode: number;
  readonly unique: Unique;
  readonly nodeId: number;
  readonly body: DataView;
}

/** Decodes a request; undefined when its length field does not match the bytes. */
export function decodeRequest(bytes: Uint8Array): FuseRequest | undefined {
  if (bytes.length < IN_HEADER_BYTES) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0, true) !== bytes.length) return undefined;
  return {
    opcode: view.getUint32(4, true),
    unique: { low: view.getUint32(8, true), high: view.getUint32(12, true) },
    nodeId: readU64(view, 16),
    body: new DataView(
      bytes.buffer,
      bytes.byteOffset + IN_HEADER_BYTES,
      bytes.length - IN_HEADER_BYTES,
    ),
  };
}

/**
 * Writes to the start of the view the header of an answer whose body of `bodyBytes` bytes follows
 * it. `errno` is positive, or 0 for success.
 */
export function writeOutHeader(
  view: DataView,
  unique: Unique,
  answer: { errno: number; bodyBytes: number },
): void {
  view.setUint32(0, OUT_HEADER_BYTES + answer.bodyBytes, true);
  view.setInt32(4, -answer.errno, true);
  view.setUint32(8, unique.low, true);
  view.setUint32(12, unique.high, true);
}

/** An answer without a body: an error, or success for 0. */
export function encodeStatus(unique: Unique, errno: number): Uint8Array {
  const bytes = new Uint8Array(OUT_HEADER_BYTES);
  writeOutHeader(new DataView(bytes.buffer), unique, { errno, bodyBytes: 0 });
  return bytes;
}

/** A successful answer with a body of `bodyBytes` bytes, which `fill` writes. */
export function encodeBody(
  unique: Unique,
  bodyBytes: number,
  fill: (body: DataView) => void,
): Uint8Array {
  const bytes = new Uint8Array(OUT_HEADER_BYTES + bodyBytes);
  writeOutHeader(new DataView(bytes.buffer), unique, { errno: 0, bodyBytes });
  fill(new DataView(bytes.buffer, OUT_HEADER_BYTES, bodyBytes));
  return bytes;
}

/** The u64 at `at` as a number: exact below 2^53, and above it still larger than any device. */
export function readU64(view: DataView, at: number): number {
  return view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
}

/** Writes a whole number below 2^53 as u64. */
export function writeU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}
