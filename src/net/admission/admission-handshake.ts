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
  proofBody,
  type AdmissionMessage,
} from './admission-codec.ts';
import { ByteWriter } from '../wire/byte-writer.ts';
import { text } from '../wire/codec.ts';
import { WireError, badValue } from '../wire/errors.ts';
import { peer } from '../wire/fields.ts';

/** What each proof says first, so that nothing made for one purpose is good for another. */
const LABEL = {
  'key-id': 'xylem-admission-1 key-id',
  initiator: 'xylem-admission-1 initiator',
  responder: 'xylem-admission-1 responder',
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

export function clusterKey(mac: Mac, secret: Uint8Array): ClusterKey {
  const purpose = new TextEncoder().encode(LABEL['key-id']);
  return { id: mac.hmacSha256(secret, purpose).slice(0, KEY_ID_BYTES), secret };
}

/** What a message leads to: bytes to send, and the end when it is one. */
export interface Step {
  readonly send?: Uint8Array;
  /** `key`: both sides have proved it. `wrong-key`: they have none in common, or a proof was wrong. */
  readonly end?: { readonly result: 'admitted'; readonly key: ClusterKey } | WrongKey;
}

interface WrongKey {
  readonly result: 'wrong-key';
}

/** One side of a handshake: messages in, messages out. `accept()` throws WireError at a message that does not belong there. */
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

const WRONG_KEY: Step = { end: { result: 'wrong-key' } };
const REFUSE: Step = {
  send: encodeAdmission({ type: ADMISSION.REFUSED, body: new Uint8Array() }),
  end: { result: 'wrong-key' },
};

/**
 * The side that begins: HELLO out, CHALLENGE in, PROOF out, ADMITTED in.
 * It proves the key first, so that a stranger who dials learns nothing that was made with it.
 */
export class InitiatorHandshake implements Handshake {
  readonly first: Uint8Array;
  readonly #components: Components;
  readonly #sides: Sides;
  readonly #keys: readonly ClusterKey[];
  readonly #hello: Uint8Array;
  #challenged: { readonly key: ClusterKey; readonly opening: Opening } | undefined;

  /** `keys`: those that it accepts, the one that it prefers first. */
  constructor(components: Components, init: Sides & { readonly keys: readonly ClusterKey[] }) {
    this.#components = components;
    this.#sides = init;
    this.#keys = init.keys;
    const nonce = components.random.bytes(NONCE_BYTES);
    this.#hello = helloBody.encode({ nonce, keyIds: init.keys.map(({ id }) => id) });
    this.first = encodeAdmission({ type: ADMISSION.HELLO, body: this.#hello });
  }

  accept({ type, body }: AdmissionMessage): Step {
    if (type === ADMISSION.REFUSED) return WRONG_KEY;
    if (this.#challenged === undefined) return this.#onChallenge(type, body);
    if (type !== ADMISSION.ADMITTED) throw misplaced(type);
    const { key, opening } = this.#challenged;
    const expected = proofOf(this.#components.mac, key, {
      role: 'responder',
      ...this.#sides,
      ...opening,
    });
    if (!this.#components.mac.equal(proofBody.decode(body), expected)) return WRONG_KEY;
    return { end: { result: 'admitted', key } };
  }

  #onChallenge(type: number, body: Uint8Array): Step {
    if (type !== ADMISSION.CHALLENGE) throw misplaced(type);
    const { keyId } = challengeBody.decode(body);
    const key = this.#keys.find(({ id }) => bytesEqual(id, keyId));
    if (key === undefined) throw badValue('key id', 'one of the HELLO', 'another');
    const opening = { hello: this.#hello, challenge: body.slice() };
    this.#challenged = { key, opening };
    const proof = proofOf(this.#components.mac, key, {
      role: 'initiator',
      ...this.#sides,
      ...opening,
    });
    return { send: encodeAdmission({ type: ADMISSION.PROOF, body: proof }) };
  }
}

/** The side that answers: HELLO in, CHALLENGE out, PROOF in, ADMITTED out. */
export class ResponderHandshake implements Handshake {
  readonly #components: Components;
  readonly #sides: Sides;
  readonly #keys: readonly ClusterKey[];
  #challenged: { readonly key: ClusterKey; readonly opening: Opening } | undefined;

  constructor(components: Components, init: Sides & { readonly keys: readonly ClusterKey[] }) {
    this.#components = components;
    this.#sides = init;
    this.#keys = init.keys;
  }

  accept({ type, body }: AdmissionMessage): Step {
    if (this.#challenged === undefined) return this.#onHello(type, body);
    if (type !== ADMISSION.PROOF) throw misplaced(type);
    const { mac } = this.#components;
    const { key, opening } = this.#challenged;
    const expected = proofOf(mac, key, { role: 'initiator', ...this.#sides, ...opening });
    if (!mac.equal(proofBody.decode(body), expected)) return REFUSE;
    const proof = proofOf(mac, key, { role: 'responder', ...this.#sides, ...opening });
    return {
      send: encodeAdmission({ type: ADMISSION.ADMITTED, body: proof }),
      end: { result: 'admitted', key },
    };
  }

  /** Takes the first key of the HELLO that this host has too. */
  #onHello(type: number, body: Uint8Array): Step {
    if (type !== ADMISSION.HELLO) throw misplaced(type);
    const { keyIds } = helloBody.decode(body);
    const key = keyIds
      .map((keyId) => this.#keys.find(({ id }) => bytesEqual(id, keyId)))
      .find((found) => found !== undefined);
    if (key === undefined) return REFUSE;
    const nonce = this.#components.random.bytes(NONCE_BYTES);
    const challenge = challengeBody.encode({ nonce, keyId: key.id });
    this.#challenged = { key, opening: { hello: body.slice(), challenge } };
    return { send: encodeAdmission({ type: ADMISSION.CHALLENGE, body: challenge }) };
  }
}

/** HMAC over the role, both hosts and all that was said, each behind its length or of a fixed one. */
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
