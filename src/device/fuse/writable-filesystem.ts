import { SECTOR_BYTES } from '../../image/lsmt-header.ts';
import { handleRequest } from './fuse-filesystem.ts';
import {
  decodeRequest,
  encodeBody,
  encodeStatus,
  ERRNO,
  OP,
  OUT_HEADER_BYTES,
  readU64,
  type FuseRequest,
  type Unique,
} from './fuse-protocol.ts';

/** Largest write, in bytes: as many pages as the largest read. */
const WRITE_BYTES_MAX = 1024 * 1024;

/** Bytes of the buffer for a request: the largest write with its headers. */
export const WRITABLE_REQUEST_BYTES_MAX = WRITE_BYTES_MAX + 8192;

/** Number of the only file. */
const IMAGE_NODE = 2;

/** INIT flag: writes of more than a page. */
const BIG_WRITES = 1 << 5;

/** Where the INIT answer has its flags and its largest write. */
const INIT_FLAGS_AT = OUT_HEADER_BYTES + 12;
const INIT_WRITE_AT = OUT_HEADER_BYTES + 20;

const WRITE_IN_BYTES = 40;
const FALLOCATE_IN_BYTES = 32;
const ACCESS_IN_BYTES = 4;
const OPEN_IN_BYTES = 8;

/** fallocate(2): the range reads as zeros, and the size stays. */
const PUNCH_HOLE = 2;
const ZERO_RANGE = 16;
const KEEP_SIZE = 1;

/** What the server of a writable file has to do about a request. */
export type WritableAction =
  | { readonly kind: 'answer'; readonly bytes: Uint8Array }
  /** Answer with the bytes [offset, offset + length), which lie in the file. */
  | {
      readonly kind: 'read' | 'zero';
      readonly unique: Unique;
      readonly offset: number;
      readonly length: number;
    }
  /** `bytes` is a view of the request. The range lies in the file, and is whole sectors. */
  | {
      readonly kind: 'write';
      readonly unique: Unique;
      readonly offset: number;
      readonly bytes: Uint8Array;
    }
  /** Answer when all writes answered so far are durable. */
  | { readonly kind: 'flush'; readonly unique: Unique }
  | { readonly kind: 'none' };

/**
 * Handles a request to the filesystem of `handleRequest()` whose file `image` is written too: whole
 * sectors, holes, and syncs. Its size stays. Pure; never throws, for any bytes.
 */
export function handleWritable(bytes: Uint8Array, file: { sizeBytes: number }): WritableAction {
  const request = decodeRequest(bytes);
  if (request === undefined) return { kind: 'none' };
  const { unique } = request;
  switch (request.opcode) {
    case OP.init:
      return withWrites(handleRequest(bytes, file), request);
    case OP.open:
      return openForAll(bytes, request, file);
    case OP.access: {
      const isWhole = request.body.byteLength >= ACCESS_IN_BYTES;
      return isWhole ? status(unique, 0) : status(unique, ERRNO.EINVAL);
    }
    case OP.write:
      return writeOf(request, file.sizeBytes);
    case OP.fallocate:
      return zeroOf(request, file.sizeBytes);
    case OP.fsync:
    case OP.flush:
      return { kind: 'flush', unique };
    default: {
      const action = handleRequest(bytes, file);
      // A reader that is interrupted waits for its answer, which a local disk gives soon.
      return action.kind === 'interrupt' ? { kind: 'none' } : action;
    }
  }
}

function status(unique: Unique, errno: number): WritableAction {
  return { kind: 'answer', bytes: encodeStatus(unique, errno) };
}

/** The answer to INIT, with writes. */
function withWrites(
  action: ReturnType<typeof handleRequest>,
  { body }: FuseRequest,
): WritableAction {
  if (action.kind !== 'answer') return { kind: 'none' };
  if (action.bytes.length > INIT_WRITE_AT) {
    const view = new DataView(action.bytes.buffer, action.bytes.byteOffset);
    const flags = body.getUint32(12, true) & BIG_WRITES;
    view.setUint32(INIT_FLAGS_AT, view.getUint32(INIT_FLAGS_AT, true) | flags, true);
    view.setUint32(INIT_WRITE_AT, WRITE_BYTES_MAX, true);
  }
  return action;
}

/** Opens for reads and writes alike: the answer to a reader. */
function openForAll(
  bytes: Uint8Array,
  { body }: FuseRequest,
  file: { sizeBytes: number },
): WritableAction {
  const reader = bytes.slice();
  if (body.byteLength >= OPEN_IN_BYTES) {
    new DataView(reader.buffer).setUint32(body.byteOffset - bytes.byteOffset, 0, true);
  }
  const action = handleRequest(reader, file);
  return action.kind === 'answer' ? action : { kind: 'none' };
}

function writeOf({ unique, nodeId, body }: FuseRequest, sizeBytes: number): WritableAction {
  if (nodeId !== IMAGE_NODE || body.byteLength < WRITE_IN_BYTES) {
    return status(unique, ERRNO.EINVAL);
  }
  const offset = readU64(body, 8);
  const length = body.getUint32(16, true);
  if (length > WRITE_BYTES_MAX || length > body.byteLength - WRITE_IN_BYTES) {
    return status(unique, ERRNO.EINVAL);
  }
  if (!isSectors(offset, length)) return status(unique, ERRNO.EINVAL);
  if (offset + length > sizeBytes) return status(unique, ERRNO.ENOSPC);
  const bytes = new Uint8Array(body.buffer, body.byteOffset + WRITE_IN_BYTES, length);
  return { kind: 'write', unique, offset, bytes };
}

function zeroOf({ unique, nodeId, body }: FuseRequest, sizeBytes: number): WritableAction {
  if (nodeId !== IMAGE_NODE || body.byteLength < FALLOCATE_IN_BYTES) {
    return status(unique, ERRNO.EINVAL);
  }
  const offset = readU64(body, 8);
  const length = readU64(body, 16);
  const mode = body.getUint32(24, true) & ~KEEP_SIZE;
  if (mode !== PUNCH_HOLE && mode !== ZERO_RANGE) return status(unique, ERRNO.EOPNOTSUPP);
  if (!isSectors(offset, length)) return status(unique, ERRNO.EINVAL);
  if (offset + length > sizeBytes) return status(unique, ERRNO.ENOSPC);
  return { kind: 'zero', unique, offset, length };
}

function isSectors(offset: number, length: number): boolean {
  return length > 0 && offset % SECTOR_BYTES === 0 && length % SECTOR_BYTES === 0;
}

/** The answer to a write of `length` bytes. */
export function encodeWritten(unique: Unique, length: number): Uint8Array {
  return encodeBody(unique, 8, (out) => out.setUint32(0, length, true));
}
