/**
 * The NBD protocol, fixed newstyle, as far as a read-only server speaks it: numbers and structures
 * of the protocol's public description. All integers are big-endian. A client asks in the
 * handshake with options, and after it with commands:
 *
 *     greeting    "NBDMAGIC" | "IHAVEOPT" | flags u16           answer: flags u32
 *     option      "IHAVEOPT" | option u32 | length u32 | data
 *     reply       magic u64 | option u32 | type u32 | length u32 | data
 *
 *     command     magic u32 | flags u16 | type u16 | cookie u64 | offset u64 | length u32
 *     simple      magic u32 | error u32 | cookie u64 | data
 *     structured  magic u32 | flags u16 | type u16 | cookie u64 | length u32 | payload
 */

/** Options of the handshake. */
export const OPTION = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
} as const;

/** Types of replies to options. */
export const REPLY = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  unsupported: 0x8000_0001,
  policy: 0x8000_0002,
  invalid: 0x8000_0003,
  unknown: 0x8000_0006,
} as const;

/** Parts of an export's description in replies of type `info`. */
export const INFO = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

/** Flags of the greeting and of the client's answer. */
export const HANDSHAKE_FLAG = { fixedNewstyle: 1, noZeroes: 2 } as const;

/** What an export can do. */
export const EXPORT_FLAG = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendDontFragment: 1 << 7,
  canMultiConn: 1 << 8,
  sendCache: 1 << 10,
} as const;

/** Commands. */
export const COMMAND = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

/** Flags of commands. */
export const COMMAND_FLAG = { dontFragment: 1 << 2, oneExtent: 1 << 3 } as const;

/** Types of chunks in structured replies. */
const CHUNK = {
  none: 0,
  data: 1,
  blockStatus: 5,
  error: 0x8001,
  errorOffset: 0x8002,
} as const;

/** Error numbers of replies: those of Linux. */
export const NBD_ERROR = { EPERM: 1, EIO: 5, EINVAL: 22 } as const;

/** Name of the only metadata context, and the number that replies give it. */
export const ALLOCATION_CONTEXT = { name: 'base:allocation', id: 1 } as const;

/** Status of an extent in that context: nothing is stored, and it reads as zeros. */
const HOLE_AND_ZERO = 3;

/** Bytes of a command. */
export const COMMAND_BYTES = 28;
/** Bytes of an option without its data. */
export const OPTION_HEADER_BYTES = 16;
/** Bytes of a simple reply without its data. */
export const SIMPLE_REPLY_BYTES = 16;
/** Bytes of a chunk without its payload. */
const CHUNK_HEADER_BYTES = 20;
/** Bytes of a chunk of data before its data: the header and the offset. */
export const DATA_CHUNK_BYTES = CHUNK_HEADER_BYTES + 8;

/** Most bytes of a name or a text, by the protocol. */
export const STRING_BYTES_MAX = 4096;

const NBD_MAGIC = 'NBDMAGIC';
const OPTION_MAGIC = 'IHAVEOPT';
const OPTION_MAGIC_HIGH = 0x49484156;
const OPTION_MAGIC_LOW = 0x454f5054;
const OPTION_REPLY_MAGIC_HIGH = 0x0003e889;
const OPTION_REPLY_MAGIC_LOW = 0x045565a9;
const COMMAND_MAGIC = 0x25609513;
const SIMPLE_REPLY_MAGIC = 0x67446698;
const CHUNK_MAGIC = 0x668e33ef;
const CHUNK_FLAG_DONE = 1;

/** The client's number of a command: a u64 in two halves, since only equality matters. */
export interface Cookie {
  readonly high: number;
  readonly low: number;
}

/** A command without the bytes that follow a write. */
export interface NbdCommand {
  readonly flags: number;
  readonly type: number;
  readonly cookie: Cookie;
  /** Exact below 2^53; above it still larger than any device. */
  readonly offset: number;
  readonly length: number;
}

/** The first bytes of a connection. */
export function encodeGreeting(): Uint8Array {
  const bytes = Buffer.alloc(18);
  bytes.write(NBD_MAGIC + OPTION_MAGIC, 'latin1');
  bytes.writeUInt16BE(HANDSHAKE_FLAG.fixedNewstyle | HANDSHAKE_FLAG.noZeroes, 16);
  return bytes;
}

/** Option and length of the data at the start of the bytes; undefined for another magic. */
export function decodeOptionHeader(
  bytes: Uint8Array,
): { readonly option: number; readonly length: number } | undefined {
  const view = viewOf(bytes);
  if (view.getUint32(0) !== OPTION_MAGIC_HIGH || view.getUint32(4) !== OPTION_MAGIC_LOW) {
    return undefined;
  }
  return { option: view.getUint32(8), length: view.getUint32(12) };
}

/** A reply to an option. */
export function encodeOptionReply(
  option: number,
  type: number,
  data: Uint8Array = new Uint8Array(0),
): Uint8Array {
  const bytes = new Uint8Array(20 + data.length);
  const view = viewOf(bytes);
  view.setUint32(0, OPTION_REPLY_MAGIC_HIGH);
  view.setUint32(4, OPTION_REPLY_MAGIC_LOW);
  view.setUint32(8, option);
  view.setUint32(12, type);
  view.setUint32(16, data.length);
  bytes.set(data, 20);
  return bytes;
}

/** The command at `at`; undefined for another magic. The bytes hold all of it. */
export function decodeCommand(bytes: Uint8Array, at: number): NbdCommand | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, COMMAND_BYTES);
  if (view.getUint32(0) !== COMMAND_MAGIC) return undefined;
  return {
    flags: view.getUint16(4),
    type: view.getUint16(6),
    cookie: { high: view.getUint32(8), low: view.getUint32(12) },
    offset: view.getUint32(16) * 2 ** 32 + view.getUint32(20),
    length: view.getUint32(24),
  };
}

/** Writes the head of a simple reply; the data of a read follows it. 0 is success. */
export function writeSimpleReply(target: Uint8Array, cookie: Cookie, error: number): void {
  const view = viewOf(target);
  view.setUint32(0, SIMPLE_REPLY_MAGIC);
  view.setUint32(4, error);
  view.setUint32(8, cookie.high);
  view.setUint32(12, cookie.low);
}

/** Writes the head of a chunk of `length` bytes of data, which follow it. */
export function writeDataChunk(
  target: Uint8Array,
  cookie: Cookie,
  part: { readonly offset: number; readonly length: number; readonly isLast: boolean },
): void {
  const { offset, length, isLast } = part;
  writeChunkHeader(target, cookie, { type: CHUNK.data, length: 8 + length, isLast });
  writeU64(viewOf(target), CHUNK_HEADER_BYTES, offset);
}

/** The chunk that ends a reply, or a whole reply that only says that all went well. */
export function encodeNoneChunk(cookie: Cookie): Uint8Array {
  const bytes = new Uint8Array(CHUNK_HEADER_BYTES);
  writeChunkHeader(bytes, cookie, { type: CHUNK.none, length: 0, isLast: true });
  return bytes;
}

/** An error with its reason for people, which ends its reply. */
export function encodeErrorChunk(cookie: Cookie, error: number, reason: string): Uint8Array {
  const text = Buffer.from(reason).subarray(0, STRING_BYTES_MAX);
  const bytes = new Uint8Array(CHUNK_HEADER_BYTES + 6 + text.length);
  const length = 6 + text.length;
  writeChunkHeader(bytes, cookie, { type: CHUNK.error, length, isLast: true });
  const view = viewOf(bytes);
  view.setUint32(CHUNK_HEADER_BYTES, error);
  view.setUint16(CHUNK_HEADER_BYTES + 4, text.length);
  bytes.set(text, CHUNK_HEADER_BYTES + 6);
  return bytes;
}

/** An error at an offset of the device; other chunks of the reply follow. */
export function encodeErrorOffsetChunk(cookie: Cookie, error: number, offset: number): Uint8Array {
  const bytes = new Uint8Array(CHUNK_HEADER_BYTES + 14);
  writeChunkHeader(bytes, cookie, { type: CHUNK.errorOffset, length: 14, isLast: false });
  const view = viewOf(bytes);
  view.setUint32(CHUNK_HEADER_BYTES, error);
  writeU64(view, CHUNK_HEADER_BYTES + 6, offset);
  return bytes;
}

/** The whole reply to a question for extents: their lengths, in order, and what reads as zeros. */
export function encodeBlockStatus(
  cookie: Cookie,
  extents: readonly { readonly length: number; readonly isZero: boolean }[],
): Uint8Array {
  const length = 4 + 8 * extents.length;
  const bytes = new Uint8Array(CHUNK_HEADER_BYTES + length);
  writeChunkHeader(bytes, cookie, { type: CHUNK.blockStatus, length, isLast: true });
  const view = viewOf(bytes);
  view.setUint32(CHUNK_HEADER_BYTES, ALLOCATION_CONTEXT.id);
  let at = CHUNK_HEADER_BYTES + 4;
  for (const extent of extents) {
    view.setUint32(at, extent.length);
    view.setUint32(at + 4, extent.isZero ? HOLE_AND_ZERO : 0);
    at += 8;
  }
  return bytes;
}

/** Writes a whole number below 2^53 as u64. */
export function writeU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 2 ** 32));
  view.setUint32(at + 4, value >>> 0);
}

/** A view of these bytes. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function writeChunkHeader(
  target: Uint8Array,
  cookie: Cookie,
  chunk: { readonly type: number; readonly length: number; readonly isLast: boolean },
): void {
  const view = viewOf(target);
  view.setUint32(0, CHUNK_MAGIC);
  view.setUint16(4, chunk.isLast ? CHUNK_FLAG_DONE : 0);
  view.setUint16(6, chunk.type);
  view.setUint32(8, cookie.high);
  view.setUint32(12, cookie.low);
  view.setUint32(16, chunk.length);
}
