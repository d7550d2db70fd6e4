import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { WireError } from '../../../src/net/wire/errors.ts';
import { FrameParser } from '../../../src/net/wire/frame-parser.ts';
import * as frames from '../../../src/net/wire/frames.ts';
import { PAYLOAD_BYTES_MAX } from '../../../src/net/limits.ts';
import { bytesOf } from '../kit/transports.ts';

const ALL = new Set(Object.values(frames.FRAME));
const ATTESTATION = { signer: new Uint8Array(32), signature: new Uint8Array(164) };

interface Heard {
  readonly frames: { type: number; body: Uint8Array }[];
  readonly answers: { head: Uint8Array; payload: Uint8Array; ended: boolean }[];
}

function parse(pieces: Iterable<Uint8Array>, wanted = true): Heard {
  const heard: Heard = { frames: [], answers: [] };
  const parser = new FrameParser(
    {
      onFrame: (type, body) => heard.frames.push({ type, body: body.slice() }),
      onAnswer: (head, payloadBytes) => {
        const payload = new Uint8Array(payloadBytes);
        heard.answers.push({ head: head.slice(), payload, ended: false });
        return wanted ? payload : undefined;
      },
      onAnswerEnd: () => {
        const answer = heard.answers.at(-1);
        if (answer !== undefined) answer.ended = true;
      },
    },
    frames.FRAMES,
    ALL,
  );
  for (const piece of pieces) parser.accept(piece);
  return heard;
}

function* cut(bytes: Uint8Array, sizes: readonly number[]): Generator<Uint8Array> {
  let start = 0;
  for (let i = 0; start < bytes.length; i++) {
    const size = sizes[i % sizes.length] ?? 1;
    yield bytes.subarray(start, start + size);
    start += size;
  }
}

function join(...parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

describe('FrameParser', () => {
  const stream = join(
    frames.encodeOpen('demand'),
    frames.encodeSignal(frames.FRAME.PING),
    frames.encodeAnswerHead(1, ATTESTATION, 1000),
    bytesOf(3, 1000),
    frames.encodeIdFrame(frames.FRAME.CANCEL, 5),
    frames.encodeAnswerHead(2, ATTESTATION, PAYLOAD_BYTES_MAX),
    bytesOf(4),
    frames.encodeSignal(frames.FRAME.PONG),
  );

  it('FrameParser.accept() finds the same frames however the stream is cut', () => {
    const whole = parse([stream]);
    expect(whole.frames.map(({ type }) => type)).toEqual([1, 8, 5, 9]);
    expect(whole.answers.map(({ ended }) => ended)).toEqual([true, true]);
    expect(Buffer.compare(whole.answers[1]?.payload ?? new Uint8Array(), bytesOf(4))).toBe(0);
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 70_000 }), { minLength: 1, maxLength: 20 }),
        (sizes) => {
          const heard = parse(cut(stream, sizes));
          expect(heard.frames).toEqual(whole.frames);
          const payloads = heard.answers.map(({ payload }) => Buffer.from(payload));
          whole.answers.forEach(({ payload }, i) => expect(payloads[i]?.compare(payload)).toBe(0));
        },
      ),
      { numRuns: 40 },
    );
  });

  it('FrameParser.accept() skips a payload that nobody wants', () => {
    const heard = parse(cut(stream, [5000]), false);
    expect(heard.frames.map(({ type }) => type)).toEqual([1, 8, 5, 9]);
    expect(heard.answers.every(({ payload }) => payload.every((byte) => byte === 0))).toBe(true);
  });

  it('FrameParser.accept() throws before it keeps a byte of a frame over its bound', () => {
    for (const [type, [min, max]] of Object.entries(frames.BODY_BYTES)) {
      for (const [length, code] of [
        [max + 2, 'limit'],
        [0xffff_ffff, 'limit'],
        [min, 'truncated'],
        [0, 'truncated'],
      ] as const) {
        const head = new Uint8Array(5);
        new DataView(head.buffer).setUint32(0, length, true);
        head[4] = Number(type);
        // A frame without a body cannot be too short but by its type.
        const expected = length - 1 < min ? 'truncated' : code;
        expect(() => parse([head])).toThrow(expect.objectContaining({ code: expected }));
      }
    }
  });

  it('FrameParser.accept() throws on a type that it does not know or take', () => {
    expect(() => parse([new Uint8Array([1, 0, 0, 0, 77])])).toThrow(WireError);
    const sink = { onFrame: () => {}, onAnswer: () => undefined, onAnswerEnd: () => {} };
    const parser = new FrameParser(sink, frames.FRAMES, new Set([frames.FRAME.OPEN]));
    expect(() => parser.accept(frames.encodeSignal(frames.FRAME.PING))).toThrow(WireError);
  });

  it('FrameParser.accept() takes any bytes or throws WireError', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 5 }), (pieces) => {
        try {
          parse(pieces);
        } catch (error) {
          expect(error).toBeInstanceOf(WireError);
        }
      }),
      { numRuns: 500 },
    );
  });
});
