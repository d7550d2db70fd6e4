import { parseDigest } from '../../../src/image/digest.ts';
import { blockIndex } from '../../../src/image/block.ts';
import {
  ADMISSION,
  encodeAdmission,
  refusedBody,
} from '../../../src/net/admission/admission-codec.ts';
import {
  InitiatorHandshake,
  ResponderHandshake,
  clusterKey,
} from '../../../src/net/admission/admission-handshake.ts';
import * as frames from '../../../src/net/wire/frames.ts';
import { TREE, messageFrames, treeError } from '../../../src/net/calls/call-message.ts';
import { CALLS, type Calls } from '../../../src/net/calls/call-table.ts';
import type { SignedClaim } from '../../../src/image/signed-claim.ts';
import { WIRE_VERSION } from '../../../src/net/wire/version.ts';
import { NodeMac } from '../../../src/runtime/node/mac.ts';
import type { Random } from '../../../src/runtime/random.ts';
import { defined } from '../../../src/util/assert.ts';
import { toHex } from '../../../src/util/bytes.ts';
import { peerId } from '../../../src/util/peer-id.ts';

const digest = defined(parseDigest(`sha256:${'0123456789abcdef'.repeat(4)}`), 'a digest');
const peer = peerId('12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5');
const host = { peer, addresses: ['/ip4/10.0.0.1/tcp/19147'] };
const origin = { registry: 'r.io', repository: 'a/b' };
const preheatSpec = {
  reference: 'r.io/a/b:1',
  part: 'trace',
  pin: true,
  zone: 'z1',
  count: 3,
} as const;
const progress = { state: 'failed', doneBytes: 5, totalBytes: 9, failure: 'quota' } as const;
const place = { digest, stripe: 2, epoch: 5, path: [host], alternates: [host] };

function message(type: number, body: Uint8Array): Uint8Array {
  return new Uint8Array([...messageFrames({ id: 7, type, body })].flatMap((frame) => [...frame]));
}

function asked<K extends keyof Calls>(name: K, request: Calls[K][0]): Uint8Array {
  return message(CALLS[name].type, CALLS[name].request.encode(request));
}

function answered<K extends keyof Calls>(name: K, reply: Calls[K][1]): Uint8Array {
  return message(TREE.OK, CALLS[name].reply.encode(reply));
}

const other = peerId('12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X');
const mac = new NodeMac();

/**
 * The messages of an admission of `peer` by `other`, a root: the key is 32 bytes 07, the nonces are
 * bytes aa and bb.
 */
function admission(): readonly (Uint8Array | undefined)[] {
  const keys = [clusterKey(mac, new Uint8Array(32).fill(7))];
  const sides = { initiator: peer, responder: other, keys };
  const random = (byte: number): Random => ({
    float: () => 0,
    below: () => 0,
    bytes: (count) => new Uint8Array(count).fill(byte),
  });
  const one = new InitiatorHandshake({ mac, random: random(0xaa) }, sides);
  const certificate = new Uint8Array(64).fill(0xcc);
  const two = new ResponderHandshake({ mac, random: random(0xbb) }, { ...sides, certificate });
  const said = [one.first];
  for (const side of [two, one, two]) {
    const [type = 0] = said.at(-1)?.subarray(4) ?? [];
    said.push(
      side.accept({ type, body: said.at(-1)?.subarray(5) ?? new Uint8Array() }).send as Uint8Array,
    );
  }
  return said;
}

const [hello, challenge, proof, admitted] = admission();

const claim: SignedClaim = {
  index: blockIndex(258),
  blockDigest: new Uint8Array(32).fill(0xdd),
  attestation: {
    signer: new Uint8Array(32).fill(0xaa),
    signature: new Uint8Array(164).fill(0xbb),
  },
};

/**
 * One of every message, as it crosses the wire: in hex here, in the tests, and in
 * docs/WIRE_PROTOCOL.md.
 */
export const EXAMPLES: Readonly<Record<string, Uint8Array>> = {
  HELLO: defined(hello, 'said'),
  CHALLENGE: defined(challenge, 'said'),
  PROOF: defined(proof, 'said'),
  ADMITTED: defined(admitted, 'said'),
  REFUSED: encodeAdmission({ type: ADMISSION.REFUSED, body: refusedBody.encode(WIRE_VERSION) }),
  OPEN: frames.encodeOpen('bulk'),
  REQUEST: frames.encodeRequest(7, {
    digest,
    index: blockIndex(258),
    kind: 'prefetch',
    hops: 3,
    timeoutMs: 5000,
  }),
  'ANSWER (without its payload of 3 bytes)': frames.encodeAnswerHead(
    7,
    { signer: new Uint8Array(32).fill(0xaa), signature: new Uint8Array(164).fill(0xbb) },
    3,
  ),
  ERROR: frames.encodeError(7, { code: 'overloaded', retryAfterMs: 100 }),
  CANCEL: frames.encodeIdFrame(frames.FRAME.CANCEL, 7),
  PROMOTE: frames.encodeIdFrame(frames.FRAME.PROMOTE, 7),
  ORDER: frames.encodeOrder({ digest, indices: [blockIndex(4), blockIndex(1)] }),
  PING: frames.encodeSignal(frames.FRAME.PING),
  PONG: frames.encodeSignal(frames.FRAME.PONG),
  ALIVE: frames.encodeSignal(frames.FRAME.ALIVE),
  JOIN: asked('join', {
    host: { ...host, zone: 'z1', capacity: 2 },
    blobs: [{ blob: { digest, sizeBytes: 1_000_000 }, origin, stripes: [0], held: [[1, 2]] }],
  }),
  'JOIN reply': answered('join', {
    places: [place],
    orders: [{ digest, indices: [blockIndex(3)] }],
  }),
  'CANCEL of a tree call': message(TREE.CANCEL, new Uint8Array()),
  LEAVE: asked('leave', { digests: [digest] }),
  'LEAVE reply': answered('leave', undefined),
  REPORT: asked('report', { lost: [peer], held: [{ digest, stripe: 2, epoch: 5 }] }),
  'REPORT reply': answered('report', { places: [], unknown: [digest] }),
  'REPORT reply, of a distrusted blob': answered('report', {
    places: [],
    unknown: [],
    notices: [{ digest, notice: claim }],
  }),
  RESOLVE: asked('resolve', { reference: 'r.io/a/b:1' }),
  'RESOLVE reply': answered('resolve', {
    manifestDigest: digest,
    manifest: new Uint8Array([123, 125]),
    origin,
  }),
  PREHEAT: asked('preheat', { action: 'start', id: '17', spec: preheatSpec }),
  'PREHEAT reply': answered('preheat', {
    id: '17',
    spec: preheatSpec,
    state: 'failed',
    failure: 'hosts',
    reason: 'why',
    missing: [{ digest, isForeign: true }],
    digest,
    startedMs: 1000,
    finishedMs: 2000,
    hosts: [{ peer, zone: 'z1', ...progress }],
  }),
  HOST_PREHEAT: asked('host-preheat', {
    action: 'start',
    id: '17',
    order: {
      reference: 'r.io/a/b:1',
      digest,
      origin,
      part: 'image',
      pin: false,
      manifest: new Uint8Array([123, 125]),
    },
  }),
  'HOST_PREHEAT of a status': asked('host-preheat', {
    action: 'status',
    id: '17',
    missing: [digest],
  }),
  'HOST_PREHEAT reply': answered('host-preheat', {
    zone: 'z1',
    progress: { ...progress, reason: 'why', stuck: { digest, index: blockIndex(3) } },
  }),
  OPEN_BLOB: asked('open-blob', {
    digest,
    origin: { registry: 's.io', repository: '', storage: 'https://s.io/b/', content: digest },
    url: 'https://s.io/b/x?s=1',
  }),
  'OPEN_BLOB, opaque': asked('open-blob', {
    digest,
    origin: {
      registry: 's.io',
      repository: '',
      storage: 'https://s.io/',
      opaque: { path: 'i/u', etag: '"e"', sizeBytes: 2 ** 20 },
    },
    url: 'https://s.io/i/u?s=1',
  }),
  'OPEN_BLOB reply': answered('open-blob', {
    outcome: 'open',
    key: digest,
    sizeBytes: 2 ** 40,
    isPublic: true,
    isBelieved: false,
  }),
  'OPEN_BLOB reply, of a distrusted blob': answered('open-blob', {
    outcome: 'open',
    key: digest,
    sizeBytes: 2 ** 40,
    isPublic: true,
    isBelieved: true,
    notice: claim,
  }),
  'OPEN_BLOB reply, no way': answered('open-blob', { outcome: 'no-way', isBelieved: true }),
  'OPEN_BLOB reply, refused': answered('open-blob', {
    outcome: 'denied',
    challenge: '',
    retryAfterMs: 0,
  }),
  WRONG_BLOB: asked('wrong-blob', { digest, claims: [claim] }),
  'WRONG_BLOB reply': answered('wrong-blob', {}),
  'WRONG_BLOB reply, distrusted': answered('wrong-blob', { notice: claim }),
  PRESENCE: asked('presence', {
    host: { ...host, zone: 'z1', capacity: 2 },
    name: 'h1',
    run: '0123456789abcdef'.repeat(2),
    roots: [peer],
    asked: [peer],
  }),
  'PRESENCE reply': answered('presence', {
    reach: 'not-reached',
    tried: 'why',
    twin: 'h2',
    strangers: [peer],
    names: [{ peer, name: 'h1', zone: 'z1', address: '/ip4/10.0.0.1/tcp/19147' }],
  }),
  MANIFEST: asked('manifest', { origin, reference: '1.4' }),
  'MANIFEST reply': answered('manifest', {
    outcome: 'found',
    digest,
    mediaType: 'a/b',
    ageMs: 1000,
    bytes: new Uint8Array([123, 125]),
  }),
  'MANIFEST reply, refused': answered('manifest', {
    outcome: 'unauthorized',
    challenge: 'Basic realm="r"',
    retryAfterMs: 0,
  }),
  'MANIFEST reply, no manifest': answered('manifest', { outcome: 'bad-content', why: 'a page' }),
  'any failure': message(TREE.ERROR, treeError.encode({ code: 'not-found', retryAfterMs: 0 })),
};

/** The examples as the document shows them. */
export function goldenText(): string {
  return Object.entries(EXAMPLES)
    .map(([name, bytes]) => `${name}\n${toHex(bytes).replace(/(.{64})(?=.)/g, '$1\n')}`)
    .join('\n\n');
}
