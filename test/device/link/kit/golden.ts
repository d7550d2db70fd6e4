import * as frames from '../../../../src/device/link/frames.ts';
import { blockIndex } from '../../../../src/image/block.ts';
import { parseDigest } from '../../../../src/image/digest.ts';
import { defined } from '../../../../src/util/assert.ts';
import { toHex } from '../../../../src/util/bytes.ts';

const digest = defined(parseDigest(`sha256:${'0123456789abcdef'.repeat(4)}`), 'a digest');
const blob = { digest, sizeBytes: 1_000_000 };
const manifest = new Uint8Array([123, 125]);

/**
 * One of every frame of the device socket: in hex here, in the tests, and in docs/WIRE_PROTOCOL.md.
 */
export const EXAMPLES: Readonly<Record<string, Uint8Array>> = {
  HELLO: frames.encodeHello('bulk'),
  WELCOME: frames.encodeWelcome('0.1.0'),
  REFUSED: frames.encodeRefused('no'),
  OPEN: frames.encodeOpen(7, {
    ...{ reference: 'r.io/a/b:1', manifestDigest: digest, layers: [blob] },
    ...{ isAgain: false, timeoutMs: 5000 },
  }),
  'OPEN, again': frames.encodeOpen(7, {
    ...{ reference: 'r.io/a/b:1', manifestDigest: undefined, layers: [blob] },
    ...{ isAgain: true, manifest, timeoutMs: 5000 },
  }),
  OPENED: frames.encodeOpened(7, { layers: [blob], manifest }),
  'OPENED, without a manifest': frames.encodeOpened(7, { layers: [blob] }),
  CLOSE: frames.encodeIdFrame(frames.FRAME.CLOSE, 7),
  SETTLED: frames.encodeSettled(),
  READ: frames.encodeRead(8, {
    ...{ kind: 'prefetch', endsOnNo: true, timeoutMs: 5000 },
    ...{ blob, index: blockIndex(3) },
  }),
  'BLOCK (without its payload of 3 bytes)': frames.encodeBlockHead(8, 3),
  ERROR: frames.encodeError(8, { code: 'unreachable', text: 'no' }),
  CANCEL: frames.encodeIdFrame(frames.FRAME.CANCEL, 8),
};

/** The examples as the document shows them. */
export function goldenText(): string {
  return Object.entries(EXAMPLES)
    .map(([name, bytes]) => `${name}\n${toHex(bytes).replace(/(.{64})(?=.)/g, '$1\n')}`)
    .join('\n\n');
}
