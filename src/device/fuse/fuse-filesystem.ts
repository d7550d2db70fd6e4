import {
  BACKGROUND_MAX,
  decodeRequest,
  encodeBody,
  encodeStatus,
  ERRNO,
  FUSE_MAJOR,
  FUSE_MINOR,
  FUSE_MINOR_MIN,
  IN_HEADER_BYTES,
  OP,
  READ_BYTES_MAX,
  readU64,
  writeU64,
  type FuseRequest,
  type Unique,
} from './fuse-protocol.ts';

/** Name of the only file in the root folder. */
export const IMAGE_FILE = 'image';

const ROOT_NODE = 1;
const IMAGE_NODE = 2;

/**
 * A request for the file's bytes [offset, offset + length), which lie in the file; `length` is at
 * least 1.
 */
export interface FileRead {
  readonly kind: 'read';
  readonly unique: Unique;
  readonly offset: number;
  readonly length: number;
}

/** What the server has to do about a request. */
export type FuseAction =
  | { readonly kind: 'answer'; readonly bytes: Uint8Array }
  | FileRead
  /** The process that made the request `unique` no longer waits for its answer. */
  | { readonly kind: 'interrupt'; readonly unique: Unique }
  | { readonly kind: 'none' };

const NONE: FuseAction = { kind: 'none' };

/** INIT flags requested of kernels that have them. */
const INIT_FLAGS =
  (1 << 0) | // ASYNC_READ: several readahead reads in flight
  (1 << 15) | // ASYNC_DIO: sends the parts of a direct read at once; depth needs it
  (1 << 22); // MAX_PAGES: reads up to 1 MiB instead of 128 KiB

const INIT_OUT_BYTES = 64;
const ATTR_BYTES = 88;
const OPEN_OUT_BYTES = 16;
const FOPEN_KEEP_CACHE = 2;
const O_ACCMODE = 3;
const W_OK = 2;

/** Seconds for which the kernel may cache attributes and names: they never change. */
const VALID_SECONDS = 2 ** 31 - 1;

const ALTERING: ReadonlySet<number> = new Set([
  OP.setattr,
  OP.symlink,
  OP.mknod,
  OP.mkdir,
  OP.unlink,
  OP.rmdir,
  OP.rename,
  OP.rename2,
  OP.link,
  OP.write,
  OP.create,
  OP.setxattr,
  OP.removexattr,
  OP.fallocate,
  OP.copyFileRange,
  OP.tmpfile,
]);
const ALWAYS_FINE: ReadonlySet<number> = new Set([
  OP.release,
  OP.releasedir,
  OP.flush,
  OP.fsync,
  OP.fsyncdir,
  OP.destroy,
]);

/** Bytes of a struct fuse_read_in before version 7.9, of which the rest is not needed. */
const READ_BODY_BYTES = 24;

/** Fewest bytes of a request's body, by opcode. */
const BODY_BYTES_MIN: ReadonlyMap<number, number> = new Map([
  [OP.init, 16],
  [OP.open, 8],
  [OP.read, READ_BODY_BYTES],
  [OP.readdir, 24],
  [OP.access, 8],
  [OP.interrupt, 8],
]);

/**
 * The read of the file that a request of `requestBytes` bytes is; undefined for anything else,
 * which `handleRequest()` answers. Nearly all requests are such reads: this makes no views of them.
 */
export function fileRead(
  request: DataView,
  requestBytes: number,
  file: { sizeBytes: number },
): FileRead | undefined {
  const isRead =
    requestBytes >= IN_HEADER_BYTES + READ_BODY_BYTES &&
    request.getUint32(0, true) === requestBytes &&
    request.getUint32(4, true) === OP.read &&
    readU64(request, 16) === IMAGE_NODE;
  if (!isRead) return undefined;
  const offset = readU64(request, IN_HEADER_BYTES + 8);
  const wanted = request.getUint32(IN_HEADER_BYTES + 16, true);
  const length = Math.min(wanted, Math.max(0, file.sizeBytes - offset));
  if (wanted > READ_BYTES_MAX || length === 0) return undefined;
  const unique = { low: request.getUint32(8, true), high: request.getUint32(12, true) };
  return { kind: 'read', unique, offset, length };
}

/**
 * Handles a request to a filesystem of one folder with one file, `image`: answers everything except
 * reads of the content. Pure: takes the kernel's bytes of a request, and returns what the server
 * has to do. Never throws, for any bytes.
 */
export function handleRequest(bytes: Uint8Array, file: { sizeBytes: number }): FuseAction {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const read = fileRead(view, bytes.length, file);
  if (read !== undefined) return read;
  const request = decodeRequest(bytes);
  if (request === undefined) return NONE;
  const { opcode, unique } = request;
  if (opcode === OP.forget || opcode === OP.batchForget) return NONE;
  if (request.body.byteLength < (BODY_BYTES_MIN.get(opcode) ?? 0)) return fail(unique, 'EINVAL');
  if (opcode === OP.interrupt) return { kind: 'interrupt', unique: uniqueAt(request.body) };
  if (ALWAYS_FINE.has(opcode)) return answer(encodeStatus(unique, 0));
  if (ALTERING.has(opcode)) return fail(unique, 'EROFS');
  return answerQuestion(request, file);
}

function answerQuestion(request: FuseRequest, file: { sizeBytes: number }): FuseAction {
  const { unique } = request;
  switch (request.opcode) {
    case OP.init:
      return answerInit(request);
    case OP.lookup:
      return answerLookup(request, file.sizeBytes);
    case OP.getattr:
      return answerAttributes(request, file.sizeBytes);
    case OP.open:
      return answerOpen(request);
    case OP.opendir:
      return answer(encodeBody(unique, OPEN_OUT_BYTES, () => {}));
    case OP.read:
      return answerOtherRead(request);
    case OP.readdir:
      return answerDirectory(request);
    case OP.statfs:
      return answerStatfs(request, file.sizeBytes);
    case OP.access: {
      const wantsWrite = (request.body.getUint32(0, true) & W_OK) !== 0;
      return wantsWrite ? fail(unique, 'EROFS') : answer(encodeStatus(unique, 0));
    }
    default:
      return fail(unique, 'ENOSYS');
  }
}

function answer(bytes: Uint8Array): FuseAction {
  return { kind: 'answer', bytes };
}

function fail(unique: Unique, name: keyof typeof ERRNO): FuseAction {
  return answer(encodeStatus(unique, ERRNO[name]));
}

function uniqueAt(body: DataView): Unique {
  return { low: body.getUint32(0, true), high: body.getUint32(4, true) };
}

function answerInit({ unique, body }: FuseRequest): FuseAction {
  const major = body.getUint32(0, true);
  const minor = body.getUint32(4, true);
  const readaheadBytes = body.getUint32(8, true);
  const flags = body.getUint32(12, true);
  if (major < FUSE_MAJOR || (major === FUSE_MAJOR && minor < FUSE_MINOR_MIN)) {
    return fail(unique, 'EPROTO');
  }
  return answer(
    encodeBody(unique, INIT_OUT_BYTES, (out) => {
      out.setUint32(0, FUSE_MAJOR, true);
      out.setUint32(4, Math.min(FUSE_MINOR, minor), true);
      out.setUint32(8, readaheadBytes, true);
      out.setUint32(12, flags & INIT_FLAGS, true);
      out.setUint16(16, BACKGROUND_MAX, true);
      out.setUint16(18, (BACKGROUND_MAX * 3) / 4, true);
      out.setUint32(20, 4096, true); // max_write, never used
      out.setUint32(24, 1, true); // time granularity in nanoseconds
      out.setUint16(28, READ_BYTES_MAX / 4096, true);
    }),
  );
}

function answerLookup({ unique, nodeId, body }: FuseRequest, sizeBytes: number): FuseAction {
  const bytes = new Uint8Array(body.buffer, body.byteOffset, body.byteLength);
  const end = bytes.indexOf(0);
  const name = new TextDecoder().decode(bytes.slice(0, end < 0 ? bytes.length : end));
  if (nodeId !== ROOT_NODE || name !== IMAGE_FILE) return fail(unique, 'ENOENT');
  return answer(
    encodeBody(unique, 40 + ATTR_BYTES, (out) => {
      writeU64(out, 0, IMAGE_NODE);
      writeU64(out, 16, VALID_SECONDS);
      writeU64(out, 24, VALID_SECONDS);
      writeAttributes(out, 40, { nodeId: IMAGE_NODE, sizeBytes });
    }),
  );
}

function answerAttributes({ unique, nodeId }: FuseRequest, sizeBytes: number): FuseAction {
  if (nodeId !== ROOT_NODE && nodeId !== IMAGE_NODE) return fail(unique, 'ENOENT');
  return answer(
    encodeBody(unique, 16 + ATTR_BYTES, (out) => {
      writeU64(out, 0, VALID_SECONDS);
      writeAttributes(out, 16, { nodeId, sizeBytes });
    }),
  );
}

/**
 * Writes a struct fuse_attr: ino, size, blocks, three times, their nanoseconds, mode, nlink, uid,
 * gid, rdev, blksize, flags.
 */
function writeAttributes(
  out: DataView,
  at: number,
  node: { nodeId: number; sizeBytes: number },
): void {
  const isRoot = node.nodeId === ROOT_NODE;
  const sizeBytes = isRoot ? 0 : node.sizeBytes;
  writeU64(out, at, node.nodeId);
  writeU64(out, at + 8, sizeBytes);
  writeU64(out, at + 16, Math.ceil(sizeBytes / 512));
  out.setUint32(at + 60, isRoot ? 0o40500 : 0o100400, true);
  out.setUint32(at + 64, isRoot ? 2 : 1, true);
  out.setUint32(at + 80, 4096, true);
}

function answerOpen({ unique, nodeId, body }: FuseRequest): FuseAction {
  if (nodeId !== IMAGE_NODE) return fail(unique, 'EISDIR');
  if ((body.getUint32(0, true) & O_ACCMODE) !== 0) return fail(unique, 'EROFS');
  return answer(
    encodeBody(unique, OPEN_OUT_BYTES, (out) => {
      out.setUint32(8, FOPEN_KEEP_CACHE, true);
    }),
  );
}

/** A read of no bytes that the file has, or of no file. */
function answerOtherRead({ unique, nodeId, body }: FuseRequest): FuseAction {
  if (nodeId !== IMAGE_NODE) return fail(unique, 'EISDIR');
  if (body.getUint32(16, true) > READ_BYTES_MAX) return fail(unique, 'EINVAL');
  return answer(encodeStatus(unique, 0));
}

/**
 * The offset of each entry is the number of the next one, so that a reader can continue anywhere.
 */
function answerDirectory({ unique, nodeId, body }: FuseRequest): FuseAction {
  if (nodeId !== ROOT_NODE) return fail(unique, 'EINVAL');
  const roomBytes = body.getUint32(16, true);
  const entries = [
    { name: '.', node: ROOT_NODE, type: 4 },
    { name: '..', node: ROOT_NODE, type: 4 },
    { name: IMAGE_FILE, node: IMAGE_NODE, type: 8 },
  ];
  const parts: Uint8Array[] = [];
  let usedBytes = 0;
  for (let i = readU64(body, 8); i < entries.length; i++) {
    const entry = entries[i];
    if (entry === undefined) break;
    const name = new TextEncoder().encode(entry.name);
    const part = new Uint8Array(Math.ceil((24 + name.length) / 8) * 8);
    if (usedBytes + part.length > roomBytes) break;
    const view = new DataView(part.buffer);
    writeU64(view, 0, entry.node);
    writeU64(view, 8, i + 1);
    view.setUint32(16, name.length, true);
    view.setUint32(20, entry.type, true);
    part.set(name, 24);
    parts.push(part);
    usedBytes += part.length;
  }
  return answer(
    encodeBody(unique, usedBytes, (out) => {
      let at = out.byteOffset;
      for (const part of parts) {
        new Uint8Array(out.buffer, at, part.length).set(part);
        at += part.length;
      }
    }),
  );
}

/**
 * Answers with a struct fuse_kstatfs: blocks, bfree, bavail, files, ffree u64; bsize, namelen,
 * frsize u32; padding.
 */
function answerStatfs({ unique }: FuseRequest, sizeBytes: number): FuseAction {
  return answer(
    encodeBody(unique, 80, (out) => {
      writeU64(out, 0, Math.ceil(sizeBytes / 4096));
      writeU64(out, 24, 2);
      out.setUint32(40, 4096, true);
      out.setUint32(44, 255, true);
      out.setUint32(48, 4096, true);
    }),
  );
}
