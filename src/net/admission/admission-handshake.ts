import type { Mac } from '../../runtime/mac.ts';
import type { Random } from '../../runtime/random.ts';
import { KIB, bytesEqual } from '../../util/bytes.ts';
import type { PeerId } from '../../util/peer-id.ts';
import {
  ADMISSION,
  KEY_ID_BYTES,
  NONCE_BYTES,
  challengeBody,
  encodeAdmission,
  helloBody,
  helloVersion,
  proofBody,
  refusedBody,
  type AdmissionMessage,
} from './admission-codec.ts';
import { ByteWriter } from '../wire/byte-writer.ts';
import { text } from '../wire/codec.ts';
import { WireError, badValue } from '../wire/errors.ts';
import { peer } from '../wire/fields.ts';
import { WIRE_VERSION } from '../wire/version.ts';

/** What each proof says first, so that nothing made for one purpose is good for another. */
const LABEL = {
  'key-id': 'xylem-admission-2 key-id',
  initiator: 'xylem-admission-2 initiator',
  responder: 'xylem-admission-2 responder',
} as const;
const label = text(64);

type Role = 'initiator' | 'responder';

/** A cluster key and the id by which two hosts find out that both have it. */
export interface ClusterKey {
  /** The first 8 bytes of an HMAC by the key: tells the key from others and nothing about it. */
  readonly id: Uint8Array;
  /** Secret. */
  readonly secret: Uint8Array;
}

/** The cluster key with its id: the first `KEY_ID_BYTES` bytes of an HMAC that the secret keys. */
export function clusterKey(mac: Mac, secret: Uint8Array): ClusterKey {
  const purpose = new TextEncoder().encode(LABEL['key-id']);
  return { id: mac.hmacSha256(secret, purpose).slice(0, KEY_ID_BYTES), secret };
}

/** What a message leads to: bytes to send, and the end when it is one. */
export interface Step {
  readonly send?: Uint8Array;
  readonly end?: HandshakeEnd;
}

/**
 * How a handshake ended. `admitted`: both sides have proved the key. `wrong-key`: they have none in
 * common, or a proof was wrong. `version`: the peer speaks another version of the wire protocol.
 */
export type HandshakeEnd =
  | {
      readonly result: 'admitted';
      readonly key: ClusterKey;
      /** What the peer shows as a root, unchecked. */
      readonly certificate?: Uint8Array;
    }
  | { readonly result: 'wrong-key' }
  | { readonly result: 'version'; readonly theirs: number };

/**
 * One side of a handshake: messages in, messages out. `accept()` throws WireError at a message that
 * does not belong there.
 */
export interface Handshake {
  /** What the side says first, if anything. */
  readonly first?: Uint8Array;
  accept(message: AdmissionMessage): Step;
}

interface Components {
  readonly mac: Mac;
  readonly random: Random;
}

interface Sides {
  readonly initiator: PeerId;
  readonly responder: PeerId;
}

/** Bodies of the two messages that came before the proofs. */
interface Opening {
  readonly hello: Uint8Array;
  readonly challenge: Uint8Array;
}

/** What a side brings to a handshake. */
interface Init extends Sides {
  /** Those that it accepts, the one that it prefers first. */
  readonly keys: readonly ClusterKey[];
  /** Shows that this host is a root. */
  readonly certificate?: Uint8Array;
}

const WRONG_KEY: Step = { end: { result: 'wrong-key' } };
const REFUSED = encodeAdmission({
  type: ADMISSION.REFUSED,
  body: refusedBody.encode(WIRE_VERSION),
});
const REFUSE: Step = { send: REFUSED, end: { result: 'wrong-key' } };

/**
 * The side that begins: HELLO out, CHALLENGE in, PROOF out, ADMITTED in.
 * It proves the key first, so that a stranger who dials learns nothing that was made with it.
 */
export class InitiatorHandshake implements Handshake {
  readonly first: Uint8Array;
  readonly #components: Components;
  readonly #init: Init;
  readonly #hello: Uint8Array;
  #challenged: { readonly key: ClusterKey; readonly opening: Opening } | undefined;

  constructor(components: Components, init: Init) {
    this.#components = components;
    this.#init = init;
    const nonce = components.random.bytes(NONCE_BYTES);
    const keyIds = init.keys.map(({ id }) => id);
    this.#hello = helloBody.encode({ version: WIRE_VERSION, nonce, keyIds });
    this.first = encodeAdmission({ type: ADMISSION.HELLO, body: this.#hello });
  }

  accept({ type, body }: AdmissionMessage): Step {
    if (type === ADMISSION.REFUSED) return refusedBy(body);
    if (this.#challenged === undefined) return this.#onChallenge(type, body);
    if (type !== ADMISSION.ADMITTED) throw misplaced(type);
    const { key, opening } = this.#challenged;
    const expected = proofOf(this.#components.mac, key, {
      role: 'responder',
      ...this.#init,
      ...opening,
    });
    const { proof, certificate } = proofBody.decode(body);
    if (!this.#components.mac.equal(proof, expected)) return WRONG_KEY;
    return { end: admittedBy(key, certificate) };
  }

  #onChallenge(type: number, body: Uint8Array): Step {
    if (type !== ADMISSION.CHALLENGE) throw misplaced(type);
    const { keyId } = challengeBody.decode(body);
    const key = this.#init.keys.find(({ id }) => bytesEqual(id, keyId));
    if (key === undefined) throw badValue('key id', 'one of the HELLO', 'another');
    const opening = { hello: this.#hello, challenge: body.slice() };
    this.#challenged = { key, opening };
    const proof = proofOf(this.#components.mac, key, {
      role: 'initiator',
      ...this.#init,
      ...opening,
    });
    const { certificate } = this.#init;
    const last = proofBody.encode({ proof, certificate });
    return { send: encodeAdmission({ type: ADMISSION.PROOF, body: last }) };
  }
}

/** The side that answers: HELLO in, CHALLENGE out, PROOF in, ADMITTED out. */
export class ResponderHandshake implements Handshake {
  readonly #components: Components;
  readonly #init: Init;
  #challenged: { readonly key: ClusterKey; readonly opening: Opening } | undefined;

  constructor(components: Components, init: Init) {
    this.#components = components;
    this.#init = init;
  }

  accept({ type, body }: AdmissionMessage): Step {
    if (this.#challenged === undefined) return this.#onHello(type, body);
    if (type !== ADMISSION.PROOF) throw misplaced(type);
    const { mac } = this.#components;
    const { key, opening } = this.#challenged;
    const expected = proofOf(mac, key, { role: 'initiator', ...this.#init, ...opening });
    const theirs = proofBody.decode(body);
    if (!mac.equal(theirs.proof, expected)) return REFUSE;
    const proof = proofOf(mac, key, { role: 'responder', ...this.#init, ...opening });
    const last = proofBody.encode({ proof, certificate: this.#init.certificate });
    return {
      send: encodeAdmission({ type: ADMISSION.ADMITTED, body: last }),
      end: admittedBy(key, theirs.certificate),
    };
  }

  /** Takes the first key of the HELLO that this host has too. */
  #onHello(type: number, body: Uint8Array): Step {
    if (type !== ADMISSION.HELLO) throw misplaced(type);
    const theirs = helloVersion(body);
    if (theirs !== WIRE_VERSION) return { send: REFUSED, end: { result: 'version', theirs } };
    const { keyIds } = helloBody.decode(body);
    const key = keyIds
      .map((keyId) => this.#init.keys.find(({ id }) => bytesEqual(id, keyId)))
      .find((found) => found !== undefined);
    if (key === undefined) return REFUSE;
    const nonce = this.#components.random.bytes(NONCE_BYTES);
    const challenge = challengeBody.encode({ nonce, keyId: key.id });
    this.#challenged = { key, opening: { hello: body.slice(), challenge } };
    return { send: encodeAdmission({ type: ADMISSION.CHALLENGE, body: challenge }) };
  }
}

function refusedBy(body: Uint8Array): Step {
  const theirs = refusedBody.decode(body);
  return theirs === WIRE_VERSION ? WRONG_KEY : { end: { result: 'version', theirs } };
}

function admittedBy(key: ClusterKey, certificate: Uint8Array | undefined): HandshakeEnd {
  // What was read is a view of a message that is gone soon.
  const shown = certificate === undefined ? {} : { certificate: certificate.slice() };
  return { result: 'admitted', key, ...shown };
}

/**
 * HMAC over the role, both hosts and all that was said, each behind its length or of a fixed one.
 */
function proofOf(
  mac: Mac,
  key: ClusterKey,
  said: Sides & Opening & { readonly role: Role },
): Uint8Array {
  const writer = new ByteWriter(KIB);
  label.write(writer, LABEL[said.role], 'label');
  peer.write(writer, said.initiator, 'initiator');
  peer.write(writer, said.responder, 'responder');
  writer.u16(said.hello.length);
  writer.raw(said.hello);
  writer.u16(said.challenge.length);
  writer.raw(said.challenge);
  return mac.hmacSha256(key.secret, writer.finish());
}

function misplaced(type: number): WireError {
  return new WireError(`an admission message of type ${type} does not belong here`, {
    code: 'type',
    type,
  });
}
