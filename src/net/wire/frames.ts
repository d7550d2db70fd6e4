import {
  ATTESTATION_SIGNATURE_BYTES,
  ATTESTATION_SIGNER_BYTES,
  type Attestation,
} from '../../image/attestation.ts';
import type { BlockRequest, PeerErrorDetail } from '../../transfer/contracts/transport.ts';
import type { TouchOrder } from '../../tree/messages.ts';
import { ByteWriter } from './byte-writer.ts';
import * as of from './codec.ts';
import { badValue } from './errors.ts';
import { attestation, digest, index } from './fields.ts';
import { FRAME_HEAD_BYTES, type FrameSet } from './frame-parser.ts';
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
 * The requester opens the streams and sends OPEN, REQUEST, CANCEL, PROMOTE, PING; the responder the
 * others.
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

/** The type byte of a frame of `/xylem/block/1`. */
export type FrameType = (typeof FRAME)[keyof typeof FRAME];

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

/** The frames, for their parser. */
export const FRAMES: FrameSet<FrameType> = {
  bodyBytes: BODY_BYTES,
  answer: { type: FRAME.ANSWER, headBytes: ANSWER_HEAD_BYTES },
};

/**
 * What a stream carries: `demand` answers and signs of life, or the `bulk` that may wait for them.
 */
export type LaneName = 'demand' | 'bulk';

/**
 * Codes of ERROR by their number. What only the asker can know (`unreachable`, `protocol`) has
 * none.
 */
const ERROR_CODES = [
  'timeout',
  'overloaded',
  'unknown-blob',
  'not-found',
  'hops',
  'refused',
  'cancelled',
] as const;

/** An error as it crosses the wire; `retryAfterMs` is 0 unless the code is `overloaded`. */
export interface ErrorFrame {
  readonly code: (typeof ERROR_CODES)[number];
  readonly retryAfterMs: number;
}

/** Why something was not answered. */
export const errorFrame: of.Codec<ErrorFrame> = of.checked(
  of.struct<ErrorFrame>({ code: of.word(ERROR_CODES), retryAfterMs: of.u32 }),
  ({ code, retryAfterMs }) => {
    const max = code === 'overloaded' ? RETRY_AFTER_MS_MAX : 0;
    if (retryAfterMs > max) throw badValue('retryAfterMs', `at most ${max}`, retryAfterMs);
  },
);

const openBody = of.word<LaneName>(['demand', 'bulk']);

const requestBody = of.struct<{ id: number; request: BlockRequest }>({
  id: of.u32,
  request: of.struct<BlockRequest>({
    kind: of.word(['demand', 'prefetch']),
    hops: of.u8,
    timeoutMs: of.atMost(REQUEST_TIMEOUT_MS_MAX, of.u32),
    digest,
    index,
  }),
});

/** All of an ANSWER but its payload. */
const answerHead = of.struct<{ id: number; attestation: Attestation }>({ id: of.u32, attestation });

const errorBody = of.struct<{ id: number; error: ErrorFrame }>({ id: of.u32, error: errorFrame });

const orderBody = of.struct<TouchOrder>({
  digest,
  indices: of.list(index, ORDER_INDICES_MAX, of.u32),
});

function frame<T>(type: FrameType, body: of.Codec<T>, value: T): Uint8Array {
  const writer = new ByteWriter(FRAME_HEAD_BYTES + BODY_BYTES[type][1]);
  writer.u32(0);
  writer.u8(type);
  body.write(writer, value, 'body');
  const bytes = writer.finish();
  new DataView(bytes.buffer).setUint32(0, bytes.length - 4, true);
  return bytes;
}

/** How a body is read. The parser has checked its length by then. */
function decoder<T>(body: of.Codec<T>): (bytes: Uint8Array) => T {
  return of.message(body, { bytesMax: BODY_BYTES[FRAME.ANSWER][1] }).decode;
}

/** Reads the body of OPEN. Throws WireError. */
export const decodeOpen = decoder(openBody);

/** Reads the body of REQUEST. Throws WireError. */
export const decodeRequest = decoder(requestBody);

/** Reads the head of ANSWER: the part before the payload. Throws WireError. */
export const decodeAnswerHead = decoder(answerHead);

/** Reads the body of ERROR. Throws WireError. */
export const decodeError = decoder(errorBody);

/** Reads the body of a frame that holds only a request id. Throws WireError. */
export const decodeId = decoder(of.u32);

/** Reads the body of ORDER. Throws WireError. */
export const decodeOrder = decoder(orderBody);

/** First frame of a stream. */
export function encodeOpen(lane: LaneName): Uint8Array {
  return frame(FRAME.OPEN, openBody, lane);
}

/** Hops are cut to what a byte holds, waits to ten minutes. */
export function encodeRequest(id: number, request: BlockRequest): Uint8Array {
  const hops = Math.min(0xff, request.hops);
  const timeoutMs = Math.min(REQUEST_TIMEOUT_MS_MAX, Math.max(0, Math.ceil(request.timeoutMs)));
  return frame(FRAME.REQUEST, requestBody, { id, request: { ...request, hops, timeoutMs } });
}

/** All of an ANSWER but its payload, which follows on the stream. */
export function encodeAnswerHead(
  id: number,
  attestation: Attestation,
  payloadBytes: number,
): Uint8Array {
  const bytes = frame(FRAME.ANSWER, answerHead, { id, attestation });
  new DataView(bytes.buffer).setUint32(0, 1 + ANSWER_HEAD_BYTES + payloadBytes, true);
  return bytes;
}

/** Why a request is not answered. */
export function encodeError(id: number, error: ErrorFrame): Uint8Array {
  return frame(FRAME.ERROR, errorBody, { id, error });
}

/** CANCEL or PROMOTE of a request. */
export function encodeIdFrame(
  type: typeof FRAME.CANCEL | typeof FRAME.PROMOTE,
  id: number,
): Uint8Array {
  return frame(type, of.u32, id);
}

/** At most ORDER_INDICES_MAX indices. */
export function encodeOrder(order: TouchOrder): Uint8Array {
  return frame(FRAME.ORDER, orderBody, order);
}

/** PING, PONG or ALIVE: a frame without a body. */
export function encodeSignal(
  type: typeof FRAME.PING | typeof FRAME.PONG | typeof FRAME.ALIVE,
): Uint8Array {
  return frame(type, of.nothing, undefined);
}

/**
 * How a failure is told to the asker. What happened between us and our own sources is nothing to
 * it: it would take `unreachable`, `timeout` or `protocol` for our own state, so these are told as
 * `not-found`.
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
