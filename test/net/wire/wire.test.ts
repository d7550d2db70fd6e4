import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { WireError } from '../../../src/net/wire/errors.ts';
import * as admission from '../../../src/net/admission/admission-codec.ts';
import { FRAME_HEAD_BYTES } from '../../../src/net/wire/frame-parser.ts';
import * as frames from '../../../src/net/wire/frames.ts';
import { ADDRESSES_MAX } from '../../../src/net/limits.ts';
import { HELD_RUNS_MAX } from '../../../src/net/calls/tree-codec.ts';
import { CALLS } from '../../../src/net/calls/call-table.ts';
import type { MessageCodec } from '../../../src/net/wire/codec.ts';
import {
  TREE,
  messageFrames,
  treeError,
  type TreeMessage,
} from '../../../src/net/calls/call-message.ts';
import { blockIndex } from '../../../src/image/block.ts';
import { peerId } from '../../../src/util/peer-id.ts';
import { EXAMPLES, goldenText } from '../kit/golden.ts';
import { anyMessages } from '../kit/raw-peer.ts';
import { DIGEST } from '../kit/transports.ts';

const DOCUMENT = new URL('../../../docs/WIRE_PROTOCOL.md', import.meta.url);

function reread<T>({ encode, decode }: MessageCodec<T>): (bytes: Uint8Array) => Uint8Array {
  return (bytes) => encode(decode(bytes));
}

/** Every codec, as a function from bytes to the bytes of what was read. */
const CODECS: Readonly<Record<string, (bytes: Uint8Array) => Uint8Array>> = {
  ...Object.fromEntries(
    Object.entries(CALLS).flatMap(([name, { request, reply }]) => [
      [`${name} request`, reread(request as MessageCodec<unknown>)],
      [`${name} reply`, reread(reply as MessageCodec<unknown>)],
    ]),
  ),
  'any failure': reread(treeError),
  hello: reread(admission.helloBody),
  challenge: reread(admission.challengeBody),
  proof: reread(admission.proofBody),
  open: (body) => frames.encodeOpen(frames.decodeOpen(body)).subarray(FRAME_HEAD_BYTES),
  request: (body) => {
    const { id, request } = frames.decodeRequest(body);
    return frames.encodeRequest(id, request).subarray(FRAME_HEAD_BYTES);
  },
  answer: (body) => {
    const { id, attestation } = frames.decodeAnswerHead(body);
    return frames.encodeAnswerHead(id, attestation, 1).subarray(FRAME_HEAD_BYTES);
  },
  error: (body) => {
    const { id, error } = frames.decodeError(body);
    return frames.encodeError(id, error).subarray(FRAME_HEAD_BYTES);
  },
  order: (body) => frames.encodeOrder(frames.decodeOrder(body)).subarray(FRAME_HEAD_BYTES),
};

/** Length, type, id and whether more follows. */
const TREE_HEAD_BYTES = 10;

/** The body of an example, to be damaged. */
function bodyOf(name: string, headBytes = FRAME_HEAD_BYTES): Uint8Array {
  const bytes = EXAMPLES[name];
  if (bytes === undefined) throw new Error(`no example ${name}`);
  return bytes.slice(headBytes);
}

const VALID: Readonly<Record<string, Uint8Array>> = {
  ...Object.fromEntries(
    Object.keys(CALLS).flatMap((name) => {
      const example = name.replace('-', '_').toUpperCase();
      return [
        [`${name} request`, bodyOf(example, TREE_HEAD_BYTES)],
        [`${name} reply`, bodyOf(`${example} reply`, TREE_HEAD_BYTES)],
      ];
    }),
  ),
  'any failure': bodyOf('any failure', TREE_HEAD_BYTES),
  hello: bodyOf('HELLO'),
  challenge: bodyOf('CHALLENGE'),
  proof: bodyOf('PROOF'),
  open: bodyOf('OPEN'),
  request: bodyOf('REQUEST'),
  answer: bodyOf('ANSWER (without its payload of 3 bytes)'),
  error: bodyOf('ERROR'),
  order: bodyOf('ORDER'),
};

function rereadOrRefused(name: string, bytes: Uint8Array): void {
  let again: Uint8Array;
  try {
    again = (CODECS[name] as (bytes: Uint8Array) => Uint8Array)(bytes);
  } catch (error) {
    expect(error).toBeInstanceOf(WireError);
    return;
  }
  expect(again).toEqual(bytes);
}

describe('wire codecs', () => {
  it('EXAMPLES are the golden bytes of docs/WIRE_PROTOCOL.md', () => {
    expect(readFileSync(DOCUMENT, 'utf8')).toContain(goldenText());
  });

  for (const [name, valid] of Object.entries(VALID)) {
    it(`${name} reads what it wrote`, () => {
      expect(CODECS[name]?.(valid)).toEqual(valid);
    });

    it(`${name} reads any bytes into what has exactly that form, or throws WireError`, () => {
      fc.assert(
        fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => rereadOrRefused(name, bytes)),
        { numRuns: 300 },
      );
    });

    it(`${name} reads a damaged message that has exactly that form, or throws WireError`, () => {
      const damage = fc.record({
        at: fc.nat({ max: Math.max(0, valid.length - 1) }),
        value: fc.nat({ max: 255 }),
        cut: fc.integer({ min: -3, max: 3 }),
      });
      fc.assert(
        fc.property(fc.array(damage, { minLength: 1, maxLength: 3 }), (damages) => {
          let bytes = valid.slice();
          for (const { at, value, cut } of damages) {
            if (at < bytes.length) bytes[at] = value;
            const length = Math.max(0, bytes.length + cut);
            const next = new Uint8Array(length);
            next.set(bytes.subarray(0, length));
            bytes = next;
          }
          rereadOrRefused(name, bytes);
        }),
        { numRuns: 500 },
      );
    });
  }

  it('joinReply.encode() writes a host that many places name once', () => {
    const host = { peer: peerId('1'.repeat(52)), addresses: ['/ip4/10.0.0.1/tcp/1'] };
    const place = { digest: DIGEST, stripe: 0, epoch: 1, path: [host, host], alternates: [host] };
    const one = CALLS.join.reply.encode({ places: [place], orders: [] });
    const two = CALLS.join.reply.encode({ places: [place, place], orders: [] });
    expect(two.length - one.length).toBe(32 + 1 + 8 + 2 + 4 + 2 + 2);
    expect(CALLS.join.reply.decode(two).places[1]?.path).toEqual([host, host]);
  });

  it('joinRequest.encode() leaves out the runs that are too many', () => {
    const held = Array.from({ length: HELD_RUNS_MAX + 5 }, (_, i) => [2 * i, 1] as const);
    const host = { peer: peerId('1'.repeat(52)), addresses: [], zone: 'z', capacity: 2 };
    const origin = { registry: 'r', repository: 'p' };
    const wanted = { blob: { digest: DIGEST, sizeBytes: 1 }, origin, stripes: [0], held };
    const bytes = CALLS.join.request.encode({ host, blobs: [wanted] });
    const read = CALLS.join.request.decode(bytes);
    expect(read.blobs[0]?.held).toEqual(held.slice(0, HELD_RUNS_MAX));
  });

  it('joinRequest.encode() refuses more addresses than a host has', () => {
    const addresses = Array.from({ length: ADDRESSES_MAX + 1 }, () => '/ip4/1.2.3.4/tcp/1');
    const host = { peer: peerId('1'.repeat(52)), addresses, zone: 'z', capacity: 2 };
    expect(() => CALLS.join.request.encode({ host, blobs: [] })).toThrow(WireError);
  });

  it('preheatRequest, preheatReply and the host ones keep what may be absent', () => {
    const spec = { reference: 'r.io/a:1', part: 'image', pin: false } as const;
    const job = {
      id: '9',
      spec,
      state: 'waiting',
      startedMs: 5,
      missing: [],
      hosts: [],
    } as const;
    const { preheat, 'host-preheat': host } = CALLS;
    for (const request of [
      { action: 'status', id: '9' },
      { action: 'cancel', id: '9' },
      { action: 'start', id: '9', spec },
      { action: 'start', id: 'ab'.repeat(16), spec },
    ] as const) {
      expect(preheat.request.decode(preheat.request.encode(request))).toEqual(request);
    }
    expect(preheat.reply.decode(preheat.reply.encode(job))).toEqual(job);
    expect(host.request.decode(host.request.encode({ action: 'ask' }))).toEqual({
      action: 'ask',
    });
    expect(host.reply.decode(host.reply.encode({ zone: 'z' }))).toEqual({ zone: 'z' });
  });

  it('resolveRequest.decode() refuses text that is not UTF-8, and keeps a byte order mark', () => {
    const bytes = new Uint8Array([2, 0, 0xc3, 0x28]);
    expect(() => CALLS.resolve.request.decode(bytes)).toThrow(/not UTF-8/);
    const marked = CALLS.resolve.request.encode({ reference: '\uFEFFa' });
    expect(CALLS.resolve.request.decode(marked).reference).toBe('\uFEFFa');
  });

  it('encodeRequest() cuts hops and waits to what the protocol carries', () => {
    const request = { digest: DIGEST, index: blockIndex(1), kind: 'demand' as const };
    const bytes = frames.encodeRequest(1, { ...request, hops: 1000, timeoutMs: 1e9 });
    const read = frames.decodeRequest(bytes.subarray(FRAME_HEAD_BYTES));
    expect(read.request).toMatchObject({ hops: 255, timeoutMs: 30_000 });
  });
});

describe('MessageParser', () => {
  const CHUNK_BYTES = 64 * 1024;

  /** What comes of bytes that arrive in pieces of a size. */
  function parse(bytes: Uint8Array, size: number): TreeMessage[] {
    const messages: TreeMessage[] = [];
    const parser = anyMessages(({ id, type, body }) =>
      messages.push({ id, type, body: body.slice() }),
    );
    for (let i = 0; i < bytes.length; i += size) parser.accept(bytes.subarray(i, i + size));
    return messages;
  }
  function joined(...frames: readonly Uint8Array[]): Uint8Array {
    return new Uint8Array(Buffer.concat(frames));
  }
  function frameOf(changes: { type?: number; id?: number; more?: number; bytes?: number }) {
    const { type = TREE.OK, id = 1, more = 0, bytes = 0 } = changes;
    const frame = new Uint8Array(10 + bytes);
    const view = new DataView(frame.buffer);
    view.setUint32(0, 6 + bytes, true);
    frame[4] = type;
    view.setUint32(5, id, true);
    frame[9] = more;
    return frame;
  }

  it('MessageParser.accept() puts messages together from pieces of any size', () => {
    const bodies = [0, 10, CHUNK_BYTES, CHUNK_BYTES + 1, 200_000].map((length) =>
      new Uint8Array(length).map((_, i) => (i * 7 + length) & 0xff),
    );
    const sent = bodies.map((body, id) => ({ id, type: TREE.OK, body }));
    const bytes = joined(...sent.flatMap((message) => [...messageFrames(message)]));
    for (const size of [3, 1000, 1 << 20]) {
      const messages = parse(bytes, size);
      expect(messages.map(({ id, type }) => ({ id, type }))).toEqual(
        sent.map(({ id, type }) => ({ id, type })),
      );
      for (const [i, { body }] of messages.entries()) {
        expect(Buffer.compare(body, bodies[i] ?? new Uint8Array())).toBe(0);
      }
    }
  });

  it('MessageParser.accept() takes the frames of several messages mixed', () => {
    const [one, other] = [1, 2].map((id) => [
      ...messageFrames({ id, type: TREE.OK, body: new Uint8Array(2 * CHUNK_BYTES).fill(id) }),
    ]);
    const mixed = [one?.[0], other?.[0], other?.[1], one?.[1]].filter((each) => each !== undefined);
    expect(
      parse(joined(...mixed), 5_000).map(({ id, body }) => [id, body[0], body.at(-1)]),
    ).toEqual([
      [2, 2, 2],
      [1, 1, 1],
    ]);
  });

  const first = frameOf({ more: 1, bytes: CHUNK_BYTES });
  const wrong: Readonly<Record<string, readonly [Uint8Array, string]>> = {
    'a frame without an id': [new Uint8Array([1, 0, 0, 0, 1]), 'truncated'],
    'a frame of 4 GiB': [new Uint8Array([255, 255, 255, 255]), 'limit'],
    'a frame of more than 64 KiB': [frameOf({ bytes: CHUNK_BYTES + 1 }), 'limit'],
    'a short frame that is not the last': [frameOf({ more: 1, bytes: 9 }), 'value'],
    'neither more nor less': [frameOf({ more: 2 }), 'value'],
    'a message that goes on as another type': [
      joined(first, frameOf({ type: TREE.ERROR })),
      'type',
    ],
    'more than 8 MiB': [joined(...Array.from({ length: 129 }, () => first)), 'limit'],
    'nine messages begun': [
      joined(...Array.from({ length: 9 }, (_, id) => frameOf({ id, more: 1, bytes: CHUNK_BYTES }))),
      'limit',
    ],
  };
  for (const [name, [bytes, code]] of Object.entries(wrong)) {
    it(`MessageParser.accept() throws on ${name}`, () => {
      expect(() => parse(bytes, 1 << 16)).toThrow(expect.objectContaining({ code }) as Error);
    });
  }
});
