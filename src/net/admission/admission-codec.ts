import { defined } from '../../util/assert.ts';
import { ByteReader } from '../wire/byte-reader.ts';
import { ByteWriter } from '../wire/byte-writer.ts';
import { WireError, badValue, overLimit } from '../wire/errors.ts';
import { FRAME_HEAD_BYTES } from '../wire/frames.ts';
import { CLUSTER_KEYS_MAX } from '../limits.ts';

/** Types of `/xylem/admission/1`, in the order in which they are sent; REFUSED ends it at any point. */
export const ADMISSION = {
  HELLO: 1,
  CHALLENGE: 2,
  PROOF: 3,
  ADMITTED: 4,
  REFUSED: 5,
} as const;

export const NONCE_BYTES = 32;
export const KEY_ID_BYTES = 8;

/** An HMAC-SHA-256. */
const PROOF_BYTES = 32;

/** The longest body: a HELLO. */
const BODY_BYTES_MAX = NONCE_BYTES + 1 + CLUSTER_KEYS_MAX * KEY_ID_BYTES;

/** A message and its type. */
export interface AdmissionMessage {
  readonly type: number;
  readonly body: Uint8Array;
}

/** From the initiator. */
export interface Hello {
  /** Fresh, 32 bytes. */
  readonly nonce: Uint8Array;
  /** Ids of the keys that it has, 8 bytes each, the one that it prefers first. */
  readonly keyIds: readonly Uint8Array[];
}

/** From the responder. */
export interface Challenge {
  /** Fresh, 32 bytes. */
  readonly nonce: Uint8Array;
  /** Id of the key that both prove. */
  readonly keyId: Uint8Array;
}

export function encodeHello({ nonce, keyIds }: Hello): Uint8Array {
  const writer = new ByteWriter(BODY_BYTES_MAX);
  writer.raw(nonce);
  writer.u8(keyIds.length);
  for (const keyId of keyIds) writer.raw(keyId);
  return writer.finish();
}

/** Throws WireError, as all decoders here. */
export function decodeHello(body: Uint8Array): Hello {
  const reader = new ByteReader(body);
  const nonce = reader.raw(NONCE_BYTES);
  const count = reader.u8();
  if (count < 1 || count > CLUSTER_KEYS_MAX) {
    throw badValue('key ids', `1 to ${CLUSTER_KEYS_MAX}`, count);
  }
  const keyIds = Array.from({ length: count }, () => reader.raw(KEY_ID_BYTES));
  reader.end();
  return { nonce, keyIds };
}

export function encodeChallenge({ nonce, keyId }: Challenge): Uint8Array {
  const writer = new ByteWriter(BODY_BYTES_MAX);
  writer.raw(nonce);
  writer.raw(keyId);
  return writer.finish();
}

export function decodeChallenge(body: Uint8Array): Challenge {
  const reader = new ByteReader(body);
  const nonce = reader.raw(NONCE_BYTES);
  const keyId = reader.raw(KEY_ID_BYTES);
  reader.end();
  return { nonce, keyId };
}

/** The proof that is the body of PROOF and of ADMITTED. */
export function decodeProof(body: Uint8Array): Uint8Array {
  const reader = new ByteReader(body);
  const proof = reader.raw(PROOF_BYTES);
  reader.end();
  return proof;
}

/** The message behind its head: length of the rest (u32), type (u8). */
export function encodeAdmission({ type, body }: AdmissionMessage): Uint8Array {
  const writer = new ByteWriter(FRAME_HEAD_BYTES + BODY_BYTES_MAX);
  writer.u32(1 + body.length);
  writer.u8(type);
  writer.raw(body);
  return writer.finish();
}

/** Takes messages out of bytes as they come. Throws WireError before it keeps more than one message. */
export class AdmissionReader {
  readonly #bytes = new Uint8Array(FRAME_HEAD_BYTES + BODY_BYTES_MAX);
  #length = 0;

  /** Calls back for every message that the piece completes. The body is valid until the call returns. */
  accept(piece: Uint8Array, onMessage: (message: AdmissionMessage) => void): void {
    for (let start = 0; start < piece.length; ) {
      const end = Math.min(piece.length, start + this.#wanted() - this.#length);
      this.#bytes.set(piece.subarray(start, end), this.#length);
      this.#length += end - start;
      start = end;
      if (this.#length < FRAME_HEAD_BYTES || this.#length < this.#wanted()) continue;
      const body = this.#bytes.subarray(FRAME_HEAD_BYTES, this.#length);
      this.#length = 0;
      onMessage({ type: defined(this.#bytes[4], 'a head was read'), body });
    }
  }

  /** Bytes of the message that is being read; of its head, as long as that is not complete. */
  #wanted(): number {
    if (this.#length < FRAME_HEAD_BYTES) return FRAME_HEAD_BYTES;
    const length = new ByteReader(this.#bytes).u32();
    if (length === 0) throw new WireError('a message has no type', { code: 'truncated' });
    if (length > 1 + BODY_BYTES_MAX) throw overLimit('message', length, 1 + BODY_BYTES_MAX);
    return 4 + length;
  }
}
