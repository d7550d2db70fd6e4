import { defined } from '../../util/assert.ts';
import { ByteReader } from '../wire/byte-reader.ts';
import { ByteWriter } from '../wire/byte-writer.ts';
import { checked, list, message, optional, raw, struct, u8, u16 } from '../wire/codec.ts';
import { WireError, badValue, overLimit } from '../wire/errors.ts';
import { FRAME_HEAD_BYTES } from '../wire/frame-parser.ts';
import { CLUSTER_KEYS_MAX } from '../limits.ts';

/**
 * Types of `/xylem/admission/2`, in the order in which they are sent; REFUSED ends it at any point.
 */
export const ADMISSION = {
  HELLO: 1,
  CHALLENGE: 2,
  PROOF: 3,
  ADMITTED: 4,
  REFUSED: 5,
} as const;

/** Random bytes that each side adds to a handshake, so that no recorded proof fits another one. */
export const NONCE_BYTES = 32;

/** Bytes of the id that names a cluster key without telling it. */
export const KEY_ID_BYTES = 8;

/** An HMAC-SHA-256. */
const PROOF_BYTES = 32;

/** An Ed25519 signature by the authority of the roots. */
export const CERTIFICATE_BYTES = 64;

/** Room for a HELLO of any version: this one has at most 51 bytes. */
const BODY_BYTES_MAX = 256;

/** A message and its type. */
export interface AdmissionMessage {
  readonly type: number;
  readonly body: Uint8Array;
}

/** From the initiator. */
export interface Hello {
  /** Of the wire protocol. The first bytes of a HELLO in every version. */
  readonly version: number;
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

/** The last message of each side. */
export interface Proof {
  readonly proof: Uint8Array;
  /** Of a root: the authority's signature over its peer id. */
  readonly certificate: Uint8Array | undefined;
}

const limits = { bytesMax: BODY_BYTES_MAX };

const keyCount = checked(u8, (count, field) => {
  if (count < 1 || count > CLUSTER_KEYS_MAX)
    throw badValue(field, `1 to ${CLUSTER_KEYS_MAX}`, count);
});

const keyIds = list(raw(KEY_ID_BYTES), CLUSTER_KEYS_MAX, keyCount);

/** The body of a HELLO. */
export const helloBody = message(
  struct<Hello>({ version: u16, nonce: raw(NONCE_BYTES), keyIds }),
  limits,
);

/** The body of a CHALLENGE. */
export const challengeBody = message(
  struct<Challenge>({ nonce: raw(NONCE_BYTES), keyId: raw(KEY_ID_BYTES) }),
  limits,
);

/** The version that a HELLO of any version names. */
export function helloVersion(body: Uint8Array): number {
  return new ByteReader(body).u16();
}

/** The body of PROOF and of ADMITTED. */
export const proofBody = message(
  struct<Proof>({ proof: raw(PROOF_BYTES), certificate: optional(raw(CERTIFICATE_BYTES)) }),
  limits,
);

/** The body of REFUSED, in every version: the version of the responder. */
export const refusedBody = message(u16, limits);

/** The message behind its head: length of the rest (u32), type (u8). */
export function encodeAdmission({ type, body }: AdmissionMessage): Uint8Array {
  const writer = new ByteWriter(FRAME_HEAD_BYTES + BODY_BYTES_MAX);
  writer.u32(1 + body.length);
  writer.u8(type);
  writer.raw(body);
  return writer.finish();
}

/**
 * Takes messages out of bytes as they come. Throws WireError before it keeps more than one message.
 */
export class AdmissionReader {
  readonly #bytes = new Uint8Array(FRAME_HEAD_BYTES + BODY_BYTES_MAX);
  #length = 0;

  /**
   * Calls back for every message that the piece completes. The body is valid until the call
   * returns.
   */
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
