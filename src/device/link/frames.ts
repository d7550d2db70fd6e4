import { BLOCK_SIZE_BYTES, type BlobRef, type BlockIndex } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import { MANIFEST_SIZE_BYTES_MAX } from '../../image/manifest.ts';
import { ByteReader } from '../../net/wire/byte-reader.ts';
import { ByteWriter } from '../../net/wire/byte-writer.ts';
import * as of from '../../net/wire/codec.ts';
import { badValue } from '../../net/wire/errors.ts';
import { digest, index, size } from '../../net/wire/fields.ts';
import { FRAME_HEAD_BYTES, type FrameSet } from '../../net/wire/frame-parser.ts';
import type { ReadKind } from '../../transfer/contracts/blob-reader.ts';
import { bytesEqual, toHex } from '../../util/bytes.ts';
import { LINK_ERROR_CODES, type LinkErrorCode } from './errors.ts';
import {
  ERROR_BYTES_MAX,
  LINK_VERSION,
  OPEN_LAYERS_MAX,
  REFERENCE_BYTES_MAX,
  TIMEOUT_MS_MAX,
} from './limits.ts';

/**
 * Frames of the device socket, between a device process and the agent of its host:
 *
 *     length of the rest (u32 LE) | type (u8) | body
 *
 * The agent sends WELCOME, REFUSED, OPENED, BLOCK and ERROR; the device process the others.
 */
export const FRAME = {
  HELLO: 1,
  WELCOME: 2,
  REFUSED: 3,
  OPEN: 4,
  OPENED: 5,
  CLOSE: 6,
  SETTLED: 7,
  READ: 8,
  BLOCK: 9,
  ERROR: 10,
  CANCEL: 11,
} as const;

/** The type byte of a frame of the device socket. */
export type LinkFrame = (typeof FRAME)[keyof typeof FRAME];

/** What a connection carries: `demand` reads and images, or the prefetches, which may wait. */
export type LinkLane = 'demand' | 'bulk';

const MAGIC = new TextEncoder().encode('xylemdev');

/** Magic and version: how a HELLO of any version begins. */
const HELLO_BYTES_MIN = 10;
/** Room for what a HELLO of another version has. */
const HELLO_BYTES_MAX = 256;
const VERSION_TEXT_BYTES_MAX = 64;
const READ_BYTES = 4 + 1 + 1 + 4 + 32 + 8 + 4;
const LAYER_BYTES = 32 + 8;

const text = of.text(ERROR_BYTES_MAX);
const layers = of.list(of.struct<BlobRef>({ digest, sizeBytes: size }), OPEN_LAYERS_MAX);
const timeoutMs = of.atMost(TIMEOUT_MS_MAX, of.u32);
const manifest = of.optional(of.bytes(MANIFEST_SIZE_BYTES_MAX));

/** An image that the device process wants to read. */
export interface OpenRequest {
  /** `host/name[:tag][@digest]` */
  readonly reference: string;
  readonly manifestDigest?: Digest | undefined;
  /** The block layers wanted, bottom first; none for all that the manifest has. */
  readonly layers: readonly BlobRef[];
  /** It was open before: whether it exists is not asked again. */
  readonly isAgain: boolean;
  /** The manifest, from the OPENED of an earlier connection. */
  readonly manifest?: Uint8Array | undefined;
  readonly timeoutMs: number;
}

/** An image that the agent has opened. */
export interface OpenedReply {
  readonly layers: readonly BlobRef[];
  /** Absent when the agent could not find it out, and goes by the layers alone. */
  readonly manifest?: Uint8Array | undefined;
}

/** One block that the device process wants. */
export interface ReadRequest {
  readonly kind: ReadKind;
  /** A definite no of the registry is an answer. */
  readonly endsOnNo: boolean;
  readonly timeoutMs: number;
  readonly blob: BlobRef;
  readonly index: BlockIndex;
}

/** Why something was not given. */
export interface LinkFailure {
  readonly code: LinkErrorCode;
  readonly text: string;
}

interface Numbered<T> {
  readonly id: number;
  readonly value: T;
}

function numbered<T>(value: of.Codec<T>): of.Codec<Numbered<T>> {
  return of.struct<Numbered<T>>({ id: of.u32, value });
}

const lane = of.word<LinkLane>(['demand', 'bulk']);
const welcome = of.struct<{ version: number; agent: string }>({
  version: of.u16,
  agent: of.text(VERSION_TEXT_BYTES_MAX),
});
const refused = of.struct<{ version: number; text: string }>({ version: of.u16, text });
const open = numbered(
  of.struct<OpenRequest>({
    isAgain: of.flag,
    timeoutMs,
    reference: of.text(REFERENCE_BYTES_MAX),
    manifestDigest: of.optional(digest),
    layers,
    manifest,
  }),
);
const opened = numbered(of.struct<OpenedReply>({ layers, manifest }));
const read = numbered(
  of.struct<ReadRequest>({
    kind: of.word(['demand', 'prefetch']),
    endsOnNo: of.flag,
    timeoutMs,
    blob: of.struct<BlobRef>({ digest, sizeBytes: size }),
    index,
  }),
);
const error = numbered(of.struct<LinkFailure>({ code: of.word(LINK_ERROR_CODES), text }));

const OPENED_BYTES_MAX = 4 + 2 + OPEN_LAYERS_MAX * LAYER_BYTES + 1 + 4 + MANIFEST_SIZE_BYTES_MAX;

/** Shortest and longest body of each type. */
const BODY_BYTES: FrameSet<LinkFrame>['bodyBytes'] = {
  [FRAME.HELLO]: [HELLO_BYTES_MIN, HELLO_BYTES_MAX],
  [FRAME.WELCOME]: [4, 4 + VERSION_TEXT_BYTES_MAX],
  [FRAME.REFUSED]: [4, 4 + ERROR_BYTES_MAX],
  [FRAME.OPEN]: [15, OPENED_BYTES_MAX + 1 + 4 + 2 + REFERENCE_BYTES_MAX + 33],
  [FRAME.OPENED]: [7, OPENED_BYTES_MAX],
  [FRAME.CLOSE]: [4, 4],
  [FRAME.SETTLED]: [0, 0],
  [FRAME.READ]: [READ_BYTES, READ_BYTES],
  [FRAME.BLOCK]: [4 + 1, 4 + BLOCK_SIZE_BYTES],
  [FRAME.ERROR]: [7, 7 + ERROR_BYTES_MAX],
  [FRAME.CANCEL]: [4, 4],
};

/** The frames, for their parser. */
export const LINK_FRAMES: FrameSet<LinkFrame> = {
  bodyBytes: BODY_BYTES,
  answer: { type: FRAME.BLOCK, headBytes: 4 },
};

/** What the agent takes. */
export const FROM_DEVICE: ReadonlySet<LinkFrame> = new Set([
  FRAME.HELLO,
  FRAME.OPEN,
  FRAME.CLOSE,
  FRAME.SETTLED,
  FRAME.READ,
  FRAME.CANCEL,
]);

/** What the device process takes. */
export const FROM_AGENT: ReadonlySet<LinkFrame> = new Set([
  FRAME.WELCOME,
  FRAME.REFUSED,
  FRAME.OPENED,
  FRAME.BLOCK,
  FRAME.ERROR,
]);

function frame<T>(type: LinkFrame, body: of.Codec<T>, value: T): Uint8Array {
  const writer = new ByteWriter(FRAME_HEAD_BYTES + BODY_BYTES[type][1]);
  writer.u32(0);
  writer.u8(type);
  body.write(writer, value, 'body');
  const bytes = writer.finish();
  new DataView(bytes.buffer).setUint32(0, bytes.length - 4, true);
  return bytes;
}

function decoder<T>(type: LinkFrame, body: of.Codec<T>): (bytes: Uint8Array) => T {
  return of.message(body, { bytesMax: BODY_BYTES[type][1] }).decode;
}

/** First frame of a connection. */
export function encodeHello(carries: LinkLane): Uint8Array {
  const body: of.Codec<LinkLane> = {
    ...lane,
    write: (writer, value, field) => {
      writer.raw(MAGIC);
      writer.u16(LINK_VERSION);
      lane.write(writer, value, field);
    },
  };
  return frame(FRAME.HELLO, body, carries);
}

/** Reads the body of HELLO; no lane when it is of another version. Throws WireError. */
export function decodeHello(bytes: Uint8Array): {
  readonly version: number;
  readonly lane: LinkLane | undefined;
} {
  const reader = new ByteReader(bytes);
  const magic = reader.raw(MAGIC.length);
  if (!bytesEqual(magic, MAGIC)) throw badValue('magic', 'xylemdev', toHex(magic));
  const version = reader.u16();
  if (version !== LINK_VERSION) return { version, lane: undefined };
  const carries = lane.read(reader, 'lane');
  reader.end();
  return { version, lane: carries };
}

/** The agent takes the connection; `agent` is its version. */
export function encodeWelcome(agent: string): Uint8Array {
  return frame(FRAME.WELCOME, welcome, { version: LINK_VERSION, agent });
}

/** Reads the body of WELCOME. Throws WireError. */
export const decodeWelcome = decoder(FRAME.WELCOME, welcome);

/** The agent does not take the connection, and hangs up. The frame has one form in all versions. */
export function encodeRefused(why: string): Uint8Array {
  return frame(FRAME.REFUSED, refused, { version: LINK_VERSION, text: clipped(why) });
}

/** Reads the body of REFUSED. Throws WireError. */
export const decodeRefused = decoder(FRAME.REFUSED, refused);

/** Asks for an image. */
export function encodeOpen(id: number, value: OpenRequest): Uint8Array {
  return frame(FRAME.OPEN, open, { id, value });
}

/** Reads the body of OPEN. Throws WireError. */
export const decodeOpen = decoder(FRAME.OPEN, open);

/** The image is open. */
export function encodeOpened(id: number, value: OpenedReply): Uint8Array {
  return frame(FRAME.OPENED, opened, { id, value });
}

/** Reads the body of OPENED. Throws WireError. */
export const decodeOpened = decoder(FRAME.OPENED, opened);

/** Asks for a block. */
export function encodeRead(id: number, value: ReadRequest): Uint8Array {
  return frame(FRAME.READ, read, { id, value });
}

/** Reads the body of READ. Throws WireError. */
export const decodeRead = decoder(FRAME.READ, read);

/** All of a BLOCK but its payload, which follows on the connection. */
export function encodeBlockHead(id: number, payloadBytes: number): Uint8Array {
  const bytes = frame(FRAME.BLOCK, of.u32, id);
  new DataView(bytes.buffer).setUint32(0, 1 + 4 + payloadBytes, true);
  return bytes;
}

/** Why an image or a block is not given. */
export function encodeError(id: number, { code, text: why }: LinkFailure): Uint8Array {
  return frame(FRAME.ERROR, error, { id, value: { code, text: clipped(why) } });
}

/** Reads the body of ERROR. Throws WireError. */
export const decodeError = decoder(FRAME.ERROR, error);

/** CANCEL of an OPEN or a READ, or CLOSE of an image. */
export function encodeIdFrame(
  type: typeof FRAME.CANCEL | typeof FRAME.CLOSE,
  id: number,
): Uint8Array {
  return frame(type, of.u32, id);
}

/** Reads the body of CANCEL or CLOSE, and the head of BLOCK. Throws WireError. */
export const decodeId = decoder(FRAME.CANCEL, of.u32);

/** All images that an earlier connection, or process, had open are open again. */
export function encodeSettled(): Uint8Array {
  return frame(FRAME.SETTLED, of.nothing, undefined);
}

/** A text of at most `ERROR_BYTES_MAX` bytes: no character of it is cut. */
function clipped(why: string): string {
  const bytes = Buffer.from(why);
  if (bytes.length <= ERROR_BYTES_MAX) return why;
  return new TextDecoder().decode(bytes.subarray(0, ERROR_BYTES_MAX), { stream: true });
}
