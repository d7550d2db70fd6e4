import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  ADMISSION,
  AdmissionReader,
  encodeAdmission,
  refusedBody,
  type AdmissionMessage,
} from '../../../src/net/admission/admission-codec.ts';
import {
  InitiatorHandshake,
  ResponderHandshake,
  clusterKey,
  type ClusterKey,
  type Handshake,
  type Step,
} from '../../../src/net/admission/admission-handshake.ts';
import { WireError } from '../../../src/net/wire/errors.ts';
import { WIRE_VERSION } from '../../../src/net/wire/version.ts';
import { peerIdOf } from '../../../src/net/node/identity.ts';
import { NodeMac } from '../../../src/runtime/node/mac.ts';
import { SystemRandom } from '../../../src/runtime/node/random.ts';
import { defined } from '../../../src/util/assert.ts';
import { identity } from '../../kit/identity.ts';

const parts = { mac: new NodeMac(), random: new SystemRandom() };
const [A, B, EVE] = [peerIdOf(identity(1)), peerIdOf(identity(2)), peerIdOf(identity(3))];
const keyOf = (byte: number): ClusterKey => clusterKey(parts.mac, new Uint8Array(32).fill(byte));
const [OLD, NEW, WRONG] = [keyOf(1), keyOf(2), keyOf(3)];

function initiator(keys: readonly ClusterKey[], self = A, peer = B): InitiatorHandshake {
  return new InitiatorHandshake(parts, { initiator: self, responder: peer, keys });
}

function responder(keys: readonly ClusterKey[], self = B, peer = A): ResponderHandshake {
  return new ResponderHandshake(parts, { initiator: peer, responder: self, keys });
}

function messageOf(bytes: Uint8Array | undefined): AdmissionMessage {
  const sent = defined(bytes, 'something was sent');
  return { type: defined(sent[4], 'a type'), body: sent.slice(5) };
}

/** Both sides to their ends, with the messages that were sent. */
function run(
  one: InitiatorHandshake,
  two: Handshake,
): { said: AdmissionMessage[]; ends: Step['end'][] } {
  const said = [messageOf(one.first)];
  const ends: Step['end'][] = [undefined, undefined];
  for (let turn = 1; ends.includes(undefined); turn++) {
    const step = (turn % 2 === 0 ? one : two).accept(defined(said.at(-1), 'a message'));
    ends[turn % 2] ??= step.end;
    if (step.send === undefined) break;
    said.push(messageOf(step.send));
  }
  return { said, ends };
}

describe('InitiatorHandshake and ResponderHandshake', () => {
  it.each([
    ['the same key', [OLD], [OLD], OLD],
    ['old, and both', [OLD], [NEW, OLD], OLD],
    ['both, and old', [NEW, OLD], [OLD], OLD],
    ['both, and both in another order', [NEW, OLD], [OLD, NEW], NEW],
    ['new, and both', [NEW], [OLD, NEW], NEW],
    ['both, and new', [OLD, NEW], [NEW], NEW],
  ])('they admit each other when they have %s', (_, ours, theirs, key) => {
    const { ends, said } = run(initiator(ours), responder(theirs));
    expect(ends).toEqual([
      { result: 'admitted', key },
      { result: 'admitted', key },
    ]);
    expect(said.map(({ type }) => type)).toEqual([
      ADMISSION.HELLO,
      ADMISSION.CHALLENGE,
      ADMISSION.PROOF,
      ADMISSION.ADMITTED,
    ]);
  });

  it('each side learns what the other shows as a root', () => {
    const certificate = new Uint8Array(64).fill(9);
    const two = new ResponderHandshake(parts, {
      initiator: A,
      responder: B,
      keys: [OLD],
      certificate,
    });
    expect(run(initiator([OLD]), two).ends).toEqual(
      [
        { result: 'admitted', key: OLD },
        { result: 'admitted', key: OLD, certificate },
      ].reverse(),
    );
  });

  it('fails with wrong-key without a common key, before either side sends a proof', () => {
    const { ends, said } = run(initiator([NEW, OLD]), responder([WRONG]));
    expect(ends).toEqual([{ result: 'wrong-key' }, { result: 'wrong-key' }]);
    expect(said[1]).toEqual({ type: ADMISSION.REFUSED, body: refusedBody.encode(WIRE_VERSION) });
  });

  it('ResponderHandshake refuses a proof by a peer that knows only the id of the key', () => {
    const thief = { id: OLD.id, secret: WRONG.secret };
    const { ends, said } = run(initiator([thief]), responder([OLD]));
    expect(ends).toEqual([{ result: 'wrong-key' }, { result: 'wrong-key' }]);
    expect(said.at(-1)?.type).toBe(ADMISSION.REFUSED);
  });

  it('InitiatorHandshake refuses a responder that knows the id of the key alone', () => {
    const two = responder([OLD]);
    const liar: Handshake = {
      accept: (message) =>
        message.type === ADMISSION.HELLO
          ? two.accept(message)
          : { send: encodeAdmission({ type: ADMISSION.ADMITTED, body: new Uint8Array(33) }) },
    };
    expect(run(initiator([OLD]), liar).ends[0]).toEqual({ result: 'wrong-key' });
  });

  it('ResponderHandshake refuses a proof that was made for another pair of hosts', () => {
    for (const [self, peer] of [
      [EVE, B],
      [A, EVE],
      [B, A],
    ] as const) {
      expect(run(initiator([OLD], self, peer), responder([OLD])).ends[1]).toEqual({
        result: 'wrong-key',
      });
    }
  });

  it('ResponderHandshake refuses what an earlier handshake of the same hosts said', () => {
    const { said } = run(initiator([OLD]), responder([OLD]));
    const again = responder([OLD]);
    again.accept(defined(said[0], 'a HELLO'));
    expect(again.accept(defined(said[2], 'a PROOF')).end).toEqual({ result: 'wrong-key' });
  });

  it('ResponderHandshake refuses its own proof, and InitiatorHandshake its own', () => {
    const { said } = run(initiator([OLD]), responder([OLD]));
    const [, , proof, admitted] = said;
    const two = responder([OLD]);
    two.accept(defined(said[0], 'a HELLO'));
    const own = two.accept({ type: ADMISSION.PROOF, body: defined(admitted, 'said').body });
    expect(own.end).toEqual({ result: 'wrong-key' });
    const one = initiator([OLD]);
    const { send } = one.accept(messageOf(responder([OLD]).accept(messageOf(one.first)).send));
    const mirrored = one.accept({ type: ADMISSION.ADMITTED, body: messageOf(send).body });
    expect(mirrored.end).toEqual({ result: 'wrong-key' });
    expect(defined(proof, 'said').body).not.toEqual(defined(admitted, 'said').body);
  });

  it('InitiatorHandshake throws at a key that it did not name', () => {
    const challenge = messageOf(
      responder([WRONG]).accept(messageOf(initiator([WRONG]).first)).send,
    );
    expect(() => initiator([OLD]).accept(challenge)).toThrow(WireError);
  });

  it('neither is ended by any bytes but with wrong-key, another version or a WireError', () => {
    const message = fc.record({
      type: fc.nat({ max: 6 }),
      body: fc.oneof(
        fc.uint8Array({ maxLength: 60 }),
        ...[0, 2, 33, 40, 43, 51, 97].map((length) =>
          fc.uint8Array({ minLength: length, maxLength: length }),
        ),
      ),
    });
    fc.assert(
      fc.property(fc.boolean(), fc.array(message, { maxLength: 4 }), (begins, messages) => {
        const side = begins ? initiator([OLD, NEW]) : responder([OLD, NEW]);
        try {
          for (const each of messages) {
            const { end } = side.accept(each);
            expect(['wrong-key', 'version']).toContain(end?.result ?? 'wrong-key');
          }
        } catch (error) {
          expect(error).toBeInstanceOf(WireError);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe('AdmissionReader', () => {
  it('AdmissionReader.accept() takes messages out of any split of their bytes', () => {
    const { said } = run(initiator([NEW, OLD]), responder([OLD]));
    const bytes = Buffer.concat([
      ...said.map(encodeAdmission),
      encodeAdmission({ type: ADMISSION.REFUSED, body: refusedBody.encode(WIRE_VERSION) }),
    ]);
    for (const size of [1, 2, 7, bytes.length]) {
      const reader = new AdmissionReader();
      const read: AdmissionMessage[] = [];
      for (let start = 0; start < bytes.length; start += size) {
        reader.accept(bytes.subarray(start, start + size), ({ type, body }) =>
          read.push({ type, body: body.slice() }),
        );
      }
      expect(read.slice(0, 4)).toEqual(said);
      expect(read[4]?.type).toBe(ADMISSION.REFUSED);
    }
  });

  it('AdmissionReader.accept() throws at a length before it keeps what follows', () => {
    for (const length of [0, 258, 0xffff_ffff]) {
      const head = new Uint8Array(5);
      new DataView(head.buffer).setUint32(0, length, true);
      expect(() => new AdmissionReader().accept(head, () => {})).toThrow(WireError);
    }
  });
});
