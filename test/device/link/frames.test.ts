import fc from 'fast-check';
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import * as frames from '../../../src/device/link/frames.ts';
import { WireError } from '../../../src/net/wire/errors.ts';
import { FRAME_HEAD_BYTES, FrameParser } from '../../../src/net/wire/frame-parser.ts';
import { EXAMPLES, goldenText } from './kit/golden.ts';

const DOCUMENT = new URL('../../../docs/WIRE_PROTOCOL.md', import.meta.url);
const { FRAME } = frames;

/** Writes again what was read of a body. */
const AGAIN: Readonly<Record<number, (body: Uint8Array) => Uint8Array>> = {
  [FRAME.HELLO]: (body) => frames.encodeHello(frames.decodeHello(body).lane ?? 'demand'),
  [FRAME.WELCOME]: (body) => frames.encodeWelcome(frames.decodeWelcome(body).agent),
  [FRAME.REFUSED]: (body) => frames.encodeRefused(frames.decodeRefused(body).text),
  [FRAME.OPEN]: (body) => {
    const { id, value } = frames.decodeOpen(body);
    return frames.encodeOpen(id, value);
  },
  [FRAME.OPENED]: (body) => {
    const { id, value } = frames.decodeOpened(body);
    return frames.encodeOpened(id, value);
  },
  [FRAME.CLOSE]: (body) => frames.encodeIdFrame(FRAME.CLOSE, frames.decodeId(body)),
  [FRAME.SETTLED]: () => frames.encodeSettled(),
  [FRAME.READ]: (body) => {
    const { id, value } = frames.decodeRead(body);
    return frames.encodeRead(id, value);
  },
  [FRAME.BLOCK]: (body) => frames.encodeBlockHead(frames.decodeId(body), 3),
  [FRAME.ERROR]: (body) => {
    const { id, value } = frames.decodeError(body);
    return frames.encodeError(id, value);
  },
  [FRAME.CANCEL]: (body) => frames.encodeIdFrame(FRAME.CANCEL, frames.decodeId(body)),
};

const ALL = new Set(Object.values(FRAME));
const typeOf = (frame: Uint8Array): number => frame[FRAME_HEAD_BYTES - 1] ?? 0;
const again = (type: number, body: Uint8Array): Uint8Array =>
  AGAIN[type]?.(body) ?? new Uint8Array();

describe('the frames of the device socket', () => {
  it('are those of docs/WIRE_PROTOCOL.md, byte for byte', () => {
    expect(readFileSync(DOCUMENT, 'utf8')).toContain(goldenText());
    expect(new Set(Object.values(EXAMPLES).map(typeOf))).toEqual(ALL);
  });

  it.each(Object.entries(EXAMPLES))('%s is read as it was written', (_, frame) => {
    expect(again(typeOf(frame), frame.subarray(FRAME_HEAD_BYTES))).toEqual(frame);
  });

  it('are read in one form alone: other bytes give WireError', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...Object.values(EXAMPLES)),
        fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 }),
        fc.integer({ min: -3, max: 3 }),
        (frame, changes, longer) => {
          const body = new Uint8Array(Math.max(0, frame.length - FRAME_HEAD_BYTES + longer));
          body.set(frame.subarray(FRAME_HEAD_BYTES, FRAME_HEAD_BYTES + body.length));
          for (const [at, value] of changes) if (body.length > 0) body[at % body.length] = value;
          const type = typeOf(frame);
          let written: Uint8Array;
          try {
            written = again(type, body);
          } catch (error) {
            expect(error).toBeInstanceOf(WireError);
            return;
          }
          // Versions are not kept, and a HELLO of another one has any form.
          const isOfOthers = [FRAME.HELLO, FRAME.WELCOME, FRAME.REFUSED, FRAME.SETTLED] as number[];
          if (!isOfOthers.includes(type)) expect(written.subarray(FRAME_HEAD_BYTES)).toEqual(body);
        },
      ),
      { numRuns: 2000 },
    );
  });

  it('are parsed, or any bytes are refused, with no more memory than a frame may have', () => {
    const sink = { onFrame: () => {}, onAnswer: () => undefined, onAnswerEnd: () => {} };
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 100 }), { maxLength: 5 }), (pieces) => {
        const parser = new FrameParser(sink, frames.LINK_FRAMES, ALL);
        try {
          for (const piece of pieces) parser.accept(piece);
        } catch (error) {
          expect(error).toBeInstanceOf(WireError);
        }
      }),
      { numRuns: 1000 },
    );
  });

  it('cut the text of an error between characters', () => {
    const frame = frames.encodeError(1, { code: 'failed', text: 'ä'.repeat(2000) });
    const { value } = frames.decodeError(frame.subarray(FRAME_HEAD_BYTES));
    expect(value.text).toBe('ä'.repeat(512));
    const odd = frames.encodeError(1, { code: 'failed', text: `x${'ä'.repeat(2000)}` });
    expect(frames.decodeError(odd.subarray(FRAME_HEAD_BYTES)).value.text).toBe(
      `x${'ä'.repeat(511)}`,
    );
  });
});
