import {
  ATTESTATION_SIGNATURE_BYTES,
  ATTESTATION_SIGNER_BYTES,
  type Attestation,
} from '../../image/attestation.ts';
import { blockIndex } from '../../image/block.ts';
import type { BlockRequest, PeerErrorDetail } from '../../transfer/contracts/transport.ts';
import type { TouchOrder } from '../../tree/messages.ts';
import { ByteReader } from './byte-reader.ts';
import { ByteWriter } from './byte-writer.ts';
import { atMost, checked, struct, u32, word, type Codec } from './codec.ts';
import { badValue } from './errors.ts';
import { digest, indices } from './fields.ts';
import {
  ORDER_INDICES_MAX,
  PAYLOAD_BYTES_MAX,
  REQUEST_TIMEOUT_MS_MAX,
  RETRY_AFTER_MS_MAX,
} from '../limits.ts';

/**
 * Frames of `/xylem/block/1`:
 *
 *     length of the rest (u32 LE) | type (u8) | body
 *
 * The requester opens the streams and sends OPEN, REQUEST, CANCEL, PROMOTE, PING; the responder the others.
 */
export const FRAME = {
  OPEN: 1,
  REQUEST: 2,
  ANSWER: 3,
  ERROR: 4,
  CANCEL: 5,
  PROMOTE: 6,
  ORDER: 7,
  PING: 8,
  PONG: 9,
  ALIVE: 10,
} as const;

export type FrameType = (typeof FRAME)[keyof typeof FRAME];

/** Length and type. */
export const FRAME_HEAD_BYTES = 5;

/** Request id, signer and signature: what stands in an ANSWER before the payload. */
export const ANSWER_HEAD_BYTES = 4 + ATTESTATION_SIGNER_BYTES + ATTESTATION_SIGNATURE_BYTES;

const REQUEST_BYTES = 4 + 1 + 1 + 4 + 32 + 4;
const ERROR_BYTES = 4 + 1 + 4;
const ORDER_HEAD_BYTES = 32 + 4;

/** Shortest and longest body of each type, checked before a byte of it is kept. */
export const BODY_BYTES: Readonly<Record<FrameType, readonly [min: number, max: number]>> = {
  [FRAME.OPEN]: [1, 1],
  [FRAME.REQUEST]: [REQUEST_BYTES, REQUEST_BYTES],
  [FRAME.ANSWER]: [ANSWER_HEAD_BYTES + 1, ANSWER_HEAD_BYTES + PAYLOAD_BYTES_MAX],
  [FRAME.ERROR]: [ERROR_BYTES, ERROR_BYTES],
  [FRAME.CANCEL]: [4, 4],
  [FRAME.PROMOTE]: [4, 4],
  [FRAME.ORDER]: [ORDER_HEAD_BYTES, ORDER_HEAD_BYTES + 4 * ORDER_INDICES_MAX],
  [FRAME.PING]: [0, 0],
  [FRAME.PONG]: [0, 0],
  [FRAME.ALIVE]: [0, 0],
};

/** What a stream carries: `demand` answers and signs of life, or the `bulk` that may wait for them. */
export type LaneName = 'demand' | 'bulk';
const laneName = word<LaneName>(['demand', 'bulk']);
const kind = word<BlockRequest['kind']>(['demand', 'prefetch']);
const timeoutMs = atMost(REQUEST_TIMEOUT_MS_MAX, u32);
const order = struct<TouchOrder>({ digest, indices: indices(ORDER_INDICES_MAX) });

/** Codes of ERROR by their number. What only the asker can know (`unreachable`, `protocol`) has none. */
const ERROR_CODES = [
  'timeout',
  'overloaded',
  'unknown-blob',
  'not-found',
  'hops',
  'refused',
  'cancelled',
] as const;
type WireErrorCode = (typeof ERROR_CODES)[number];

/** An error as it crosses the wire; `retryAfterMs` is 0 unless the code is `overloaded`. */
export interface ErrorFrame {
  readonly code: WireErrorCode;
  readonly retryAfterMs: number;
}

function frame(type: FrameType, write: (writer: ByteWriter) => void): Uint8Array {
  const writer = new ByteWriter(FRAME_HEAD_BYTES + BODY_BYTES[type][1]);
  writer.u32(0);
  writer.u8(type);
  write(writer);
  const bytes = writer.finish();
  new DataView(bytes.buffer).setUint32(0, bytes.length - 4, true);
  return bytes;
}

function parsed<T>(body: Uint8Array, read: (reader: ByteReader) => T): T {
  const reader = new ByteReader(body);
  const value = read(reader);
  reader.end();
  return value;
}

/** First frame of a stream. */
export function encodeOpen(lane: LaneName): Uint8Array {
  return frame(FRAME.OPEN, (writer) => laneName.write(writer, lane, 'lane'));
}

export function decodeOpen(body: Uint8Array): LaneName {
  return parsed(body, (reader) => laneName.read(reader, 'lane'));
}

/** Hops are cut to what a byte holds, waits to ten minutes. */
export function encodeRequest(id: number, request: BlockRequest): Uint8Array {
  return frame(FRAME.REQUEST, (writer) => {
    writer.u32(id);
    kind.write(writer, request.kind, 'kind');
    writer.u8(Math.min(0xff, request.hops));
    writer.u32(Math.min(REQUEST_TIMEOUT_MS_MAX, Math.max(0, Math.ceil(request.timeoutMs))));
    digest.write(writer, request.digest, 'digest');
    writer.u32(request.index);
  });
}

export function decodeRequest(body: Uint8Array): { id: number; request: BlockRequest } {
  return parsed(body, (reader) => {
    const id = reader.u32();
    // Properties are read in the order of the wire.
    const request = {
      kind: kind.read(reader, 'kind'),
      hops: reader.u8(),
      timeoutMs: timeoutMs.read(reader, 'timeoutMs'),
      digest: digest.read(reader, 'digest'),
      index: blockIndex(reader.u32()),
    };
    return { id, request };
  });
}

/** All of an ANSWER but its payload, which follows on the stream. */
export function encodeAnswerHead(
  id: number,
  attestation: Attestation,
  payloadBytes: number,
): Uint8Array {
  const bytes = frame(FRAME.ANSWER, (writer) => {
    writer.u32(id);
    writer.raw(attestation.signer);
    writer.raw(attestation.signature);
  });
  new DataView(bytes.buffer).setUint32(0, 1 + ANSWER_HEAD_BYTES + payloadBytes, true);
  return bytes;
}

/** The attestation is copied out of the body. */
export function decodeAnswerHead(head: Uint8Array): { id: number; attestation: Attestation } {
  return parsed(head, (reader) => ({
    id: reader.u32(),
    attestation: {
      signer: reader.raw(ATTESTATION_SIGNER_BYTES).slice(),
      signature: reader.raw(ATTESTATION_SIGNATURE_BYTES).slice(),
    },
  }));
}

/**
 * How a failure is told to the asker. What happened between us and our own sources is nothing to it: it would take
 * `unreachable`, `timeout` or `protocol` for our own state, so these are told as `not-found`.
 */
export function errorFrameOf(detail: PeerErrorDetail): ErrorFrame {
  switch (detail.code) {
    case 'overloaded':
      return { code: 'overloaded', retryAfterMs: retryAfterOf(detail.retryAfterMs) };
    case 'unreachable':
    case 'timeout':
    case 'protocol':
      return { code: 'not-found', retryAfterMs: 0 };
    case 'unknown-blob':
    case 'not-found':
    case 'hops':
    case 'refused':
    case 'cancelled':
      return { code: detail.code, retryAfterMs: 0 };
  }
}

function retryAfterOf(delayMs: number): number {
  return Math.min(RETRY_AFTER_MS_MAX, Math.max(0, Math.ceil(delayMs)));
}

/** What an error of a peer means to us. */
export function detailOf(error: ErrorFrame): PeerErrorDetail {
  if (error.code === 'overloaded') return { code: 'overloaded', retryAfterMs: error.retryAfterMs };
  return { code: error.code };
}

/** Why something was not answered; only `overloaded` says when to ask again. */
export const errorFrame: Codec<ErrorFrame> = checked(
  struct<ErrorFrame>({ code: word(ERROR_CODES), retryAfterMs: u32 }),
  ({ code, retryAfterMs }) => {
    const max = code === 'overloaded' ? RETRY_AFTER_MS_MAX : 0;
    if (retryAfterMs > max) throw badValue('retryAfterMs', `at most ${max}`, retryAfterMs);
  },
);

export function encodeError(id: number, error: ErrorFrame): Uint8Array {
  return frame(FRAME.ERROR, (writer) => {
    writer.u32(id);
    errorFrame.write(writer, error, 'error');
  });
}

export function decodeError(body: Uint8Array): { id: number; error: ErrorFrame } {
  return parsed(body, (reader) => ({
    id: reader.u32(),
    error: errorFrame.read(reader, 'error'),
  }));
}

/** CANCEL or PROMOTE of a request. */
export function encodeIdFrame(
  type: typeof FRAME.CANCEL | typeof FRAME.PROMOTE,
  id: number,
): Uint8Array {
  return frame(type, (writer) => writer.u32(id));
}

export function decodeId(body: Uint8Array): number {
  return parsed(body, (reader) => reader.u32());
}

/** At most ORDER_INDICES_MAX indices. */
export function encodeOrder(touches: TouchOrder): Uint8Array {
  return frame(FRAME.ORDER, (writer) => order.write(writer, touches, 'order'));
}

export function decodeOrder(body: Uint8Array): TouchOrder {
  return parsed(body, (reader) => order.read(reader, 'order'));
}

/** PING, PONG or ALIVE: a frame without a body. */
export function encodeSignal(
  type: typeof FRAME.PING | typeof FRAME.PONG | typeof FRAME.ALIVE,
): Uint8Array {
  return frame(type, () => {});
}
