import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { WireError } from '../../src/net/errors.ts';
import * as admission from '../../src/net/admission-codec.ts';
import * as frames from '../../src/net/frames.ts';
import { ADDRESSES_MAX } from '../../src/net/limits.ts';
import * as codec from '../../src/net/tree-codec.ts';
import { TREE, collectMessage, messageChunks } from '../../src/net/tree-message.ts';
import { blockIndex } from '../../src/image/block.ts';
import { peerId } from '../../src/util/peer-id.ts';
import { EXAMPLES, goldenText } from './golden.ts';
import { DIGEST } from './support.ts';

const DOCUMENT = new URL('../../docs/WIRE_PROTOCOL.md', import.meta.url);

/** Every codec, as a function from bytes to the bytes of what was read. */
const CODECS: Readonly<Record<string, (bytes: Uint8Array) => Uint8Array>> = {
  ...Object.fromEntries(
    Object.entries({
      joinRequest: codec.joinRequest,
      joinReply: codec.joinReply,
      leaveRequest: codec.leaveRequest,
      leaveReply: codec.leaveReply,
      reportRequest: codec.reportRequest,
      reportReply: codec.reportReply,
      resolveRequest: codec.resolveRequest,
      resolveReply: codec.resolveReply,
      statRequest: codec.statRequest,
      statReply: codec.statReply,
    }).map(([name, each]) => {
      const { encode, decode } = each as codec.MessageCodec<unknown>;
      return [name, (bytes: Uint8Array) => encode(decode(bytes))];
    }),
  ),
  hello: (body) => admission.encodeHello(admission.decodeHello(body)),
  challenge: (body) => admission.encodeChallenge(admission.decodeChallenge(body)),
  proof: (body) => admission.decodeProof(body),
  open: (body) => frames.encodeOpen(frames.decodeOpen(body)).subarray(frames.FRAME_HEAD_BYTES),
  request: (body) => {
    const { id, request } = frames.decodeRequest(body);
    return frames.encodeRequest(id, request).subarray(frames.FRAME_HEAD_BYTES);
  },
  answer: (body) => {
    const { id, attestation } = frames.decodeAnswerHead(body);
    return frames.encodeAnswerHead(id, attestation, 1).subarray(frames.FRAME_HEAD_BYTES);
  },
  error: (body) => {
    const { id, error } = frames.decodeError(body);
    return frames.encodeError(id, error).subarray(frames.FRAME_HEAD_BYTES);
  },
  order: (body) => frames.encodeOrder(frames.decodeOrder(body)).subarray(frames.FRAME_HEAD_BYTES),
};

/** The body of an example, to be damaged. */
function bodyOf(name: string): Uint8Array {
  const bytes = EXAMPLES[name];
  if (bytes === undefined) throw new Error(`no example ${name}`);
  return bytes.slice(frames.FRAME_HEAD_BYTES);
}

const VALID: Readonly<Record<string, Uint8Array>> = {
  joinRequest: bodyOf('JOIN'),
  joinReply: bodyOf('JOIN reply'),
  leaveRequest: bodyOf('LEAVE'),
  leaveReply: bodyOf('LEAVE reply'),
  reportRequest: bodyOf('REPORT'),
  reportReply: bodyOf('REPORT reply'),
  resolveRequest: bodyOf('RESOLVE'),
  resolveReply: bodyOf('RESOLVE reply'),
  statRequest: bodyOf('STAT'),
  statReply: bodyOf('STAT reply'),
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

    it(`${name} reads damaged messages into what has exactly that form, or throws WireError`, () => {
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
    const one = codec.joinReply.encode({ places: [place], orders: [] });
    const two = codec.joinReply.encode({ places: [place, place], orders: [] });
    expect(two.length - one.length).toBe(32 + 1 + 8 + 2 + 4 + 2 + 2);
    expect(codec.joinReply.decode(two).places[1]?.path).toEqual([host, host]);
  });

  it('joinRequest.encode() leaves out the runs that are too many', () => {
    const held = Array.from({ length: codec.HELD_RUNS_MAX + 5 }, (_, i) => [2 * i, 1] as const);
    const host = { peer: peerId('1'.repeat(52)), addresses: [], zone: 'z', capacity: 2 };
    const origin = { registry: 'r', repository: 'p' };
    const wanted = { blob: { digest: DIGEST, sizeBytes: 1 }, origin, stripes: [0], held };
    const bytes = codec.joinRequest.encode({ host, blobs: [wanted] });
    const read = codec.joinRequest.decode(bytes);
    expect(read.blobs[0]?.held).toEqual(held.slice(0, codec.HELD_RUNS_MAX));
  });

  it('joinRequest.encode() refuses more addresses than a host has', () => {
    const addresses = Array.from({ length: ADDRESSES_MAX + 1 }, () => '/ip4/1.2.3.4/tcp/1');
    const host = { peer: peerId('1'.repeat(52)), addresses, zone: 'z', capacity: 2 };
    expect(() => codec.joinRequest.encode({ host, blobs: [] })).toThrow(WireError);
  });

  it('resolveRequest.decode() refuses text that is not UTF-8, and keeps a byte order mark', () => {
    const bytes = new Uint8Array([2, 0, 0xc3, 0x28]);
    expect(() => codec.resolveRequest.decode(bytes)).toThrow(/not UTF-8/);
    const marked = codec.resolveRequest.encode({ reference: '\uFEFFa' });
    expect(codec.resolveRequest.decode(marked).reference).toBe('\uFEFFa');
  });

  it('encodeRequest() cuts hops and waits to what the protocol carries', () => {
    const request = { digest: DIGEST, index: blockIndex(1), kind: 'demand' as const };
    const bytes = frames.encodeRequest(1, { ...request, hops: 1000, timeoutMs: 1e9 });
    const read = frames.decodeRequest(bytes.subarray(frames.FRAME_HEAD_BYTES));
    expect(read.request).toMatchObject({ hops: 255, timeoutMs: 600_000 });
  });
});

describe('collectMessage', () => {
  async function* pieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
    for (let i = 0; i < bytes.length; i += size) yield bytes.subarray(i, i + size);
  }
  function joined(body: Uint8Array): Uint8Array {
    return new Uint8Array(Buffer.concat([...messageChunks({ type: TREE.OK, body })]));
  }

  it('collectMessage() reads a message from pieces of any size', async () => {
    const body = new Uint8Array(200_000).map((_, i) => i & 0xff);
    for (const size of [3, 1000, 1 << 20]) {
      const message = await collectMessage(pieces(joined(body), size));
      expect(message.type).toBe(TREE.OK);
      expect(Buffer.compare(message.body, body)).toBe(0);
    }
  });

  it('collectMessage() throws on a short, a long and a huge message', async () => {
    const bytes = joined(new Uint8Array(10));
    await expect(collectMessage(pieces(bytes.subarray(0, 9), 4))).rejects.toMatchObject({
      code: 'truncated',
    });
    const long = new Uint8Array([...bytes, 1]);
    await expect(collectMessage(pieces(long, 100))).rejects.toMatchObject({ code: 'trailing' });
    const huge = new Uint8Array([255, 255, 255, 255, 1]);
    await expect(collectMessage(pieces(huge, 5))).rejects.toMatchObject({ code: 'limit' });
    await expect(collectMessage(pieces(new Uint8Array(5), 5))).rejects.toMatchObject({
      code: 'truncated',
    });
  });
});
