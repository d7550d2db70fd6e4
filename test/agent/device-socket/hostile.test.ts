import fc from 'fast-check';
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import * as frames from '../../../src/device/link/frames.ts';
import { CONNECTIONS_MAX } from '../../../src/device/link/limits.ts';
import { blockIndex } from '../../../src/image/block.ts';
import { FRAME_HEAD_BYTES } from '../../../src/net/wire/frame-parser.ts';
import { defined } from '../../../src/util/assert.ts';
import { EXAMPLES } from '../../device/link/kit/golden.ts';
import { sampleBytes } from '../../kit/layers.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import {
  addImage,
  GatedReader,
  ManifestTwin,
  SocketRig,
  startLink,
  startNode,
} from './kit/link-rig.ts';

const signal = new AbortController().signal;
const DEMAND = { kind: 'demand' } as const;

const { cluster, node } = await startNode();

/** A connection to the device socket without a device process; ends with the running test. */
async function dial(path: string): Promise<Socket> {
  const socket = connect(path);
  socket.on('error', () => {});
  onTestFinished(() => void socket.destroy());
  await once(socket, 'connect');
  return socket;
}

/** All that comes until the other side hangs up. */
async function heard(socket: Socket): Promise<Buffer> {
  const pieces: Buffer[] = [];
  socket.on('data', (piece: Buffer) => pieces.push(piece));
  await once(socket, 'close');
  return Buffer.concat(pieces);
}

async function rigOf(reader?: GatedReader) {
  const manifests = new ManifestTwin();
  const image = addImage(cluster, manifests, [sampleBytes(1_000_000, 77)]);
  const rig = new SocketRig(node, manifests);
  await rig.start(reader);
  return { rig, image, blob: defined(image.layers[0], 'a layer') };
}

describe('DeviceSocket', () => {
  it('hangs up on any bytes that are no frames, and serves the others', async () => {
    const { rig, image, blob } = await rigOf();
    const link = startLink(rig.path);
    await link.open(image, signal);
    const hello = frames.encodeHello('demand');
    const noise = fc.oneof(
      fc.uint8Array({ minLength: 5, maxLength: 300 }).map((bytes) => [bytes]),
      fc.uint8Array({ minLength: 5, maxLength: 300 }).map((bytes) => [hello, bytes]),
      fc.constantFrom(...Object.values(EXAMPLES)).map((frame) => [hello, frame, frame]),
    );
    await fc.assert(
      fc.asyncProperty(noise, async (pieces) => {
        const socket = await dial(rig.path);
        const closed = once(socket, 'close');
        for (const piece of pieces) socket.write(piece);
        socket.end();
        socket.resume();
        await closed;
      }),
      { numRuns: 100 },
    );
    const bytes = await link.read(blob, 0, 100, DEMAND);
    expect(bytes).toEqual(sampleBytes(1_000_000, 77).subarray(0, 100));
  });

  it('tells a device process of another version its own, and hangs up', async () => {
    const { rig } = await rigOf();
    const hello = frames.encodeHello('demand');
    new DataView(hello.buffer).setUint16(FRAME_HEAD_BYTES + 8, 9, true);
    const socket = await dial(rig.path);
    socket.write(hello);
    const answer = await heard(socket);
    expect(answer[FRAME_HEAD_BYTES - 1]).toBe(frames.FRAME.REFUSED);
    expect(frames.decodeRefused(answer.subarray(FRAME_HEAD_BYTES))).toEqual({
      version: 1,
      text: 'the device process speaks version 9',
    });
  });

  it.each([
    ['a frame before HELLO', [frames.encodeSettled()]],
    ['a second HELLO', [frames.encodeHello('demand'), frames.encodeHello('demand')]],
    ['CLOSE of nothing', [frames.encodeHello('demand'), EXAMPLES['CLOSE']]],
    [
      'a block beyond the blob',
      [
        frames.encodeHello('demand'),
        frames.encodeRead(1, {
          ...{ kind: 'demand', endsOnNo: false, timeoutMs: 1000, index: blockIndex(9) },
          blob: { digest: `sha256:${'ab'.repeat(32)}` as never, sizeBytes: 1000 },
        }),
      ],
    ],
  ])('hangs up on %s', async (_, sent) => {
    const { rig } = await rigOf();
    const socket = await dial(rig.path);
    for (const frame of sent) socket.write(defined(frame, 'a frame'));
    await heard(socket);
  });

  it('refuses blobs of no open image', async () => {
    const { rig, blob } = await rigOf();
    const socket = await dial(rig.path);
    socket.write(frames.encodeHello('bulk'));
    const read = { kind: 'demand', endsOnNo: false, timeoutMs: 1000, blob } as const;
    socket.write(frames.encodeRead(5, { ...read, index: blockIndex(0) }));
    const welcome = frames.encodeWelcome('1.2.3').length;
    let bytes = Buffer.alloc(0);
    socket.on('data', (piece: Buffer) => {
      bytes = Buffer.concat([bytes, piece]);
    });
    await expect.poll(() => bytes.length).toBeGreaterThan(welcome);
    const answer = frames.decodeError(bytes.subarray(welcome + FRAME_HEAD_BYTES));
    expect(answer).toMatchObject({ id: 5, value: { code: 'unknown-blob' } });
  });

  it('takes a few connections, and no more', async () => {
    const { rig } = await rigOf();
    const taken = await Promise.all(
      Array.from({ length: CONNECTIONS_MAX }, async () => {
        const socket = await dial(rig.path);
        socket.write(frames.encodeHello('demand'));
        await once(socket, 'data');
        return socket;
      }),
    );
    await heard(await dial(rig.path));
    const [first] = taken;
    first?.destroy();
    await expect
      .poll(async () => {
        const socket = await dial(rig.path);
        socket.write(frames.encodeHello('demand'));
        const [event] = await Promise.race([
          once(socket, 'data').then(() => ['data']),
          once(socket, 'close').then(() => ['close']),
        ]);
        return event;
      })
      .toBe('data');
  });

  it('gives up what a device process asked that has gone', async () => {
    const reader = new GatedReader(node);
    const { rig, image, blob } = await rigOf(reader);
    const link = startLink(rig.path);
    await link.open(image, signal);
    const read = link.read(blob, 0, 10, DEMAND);
    await expect.poll(() => reader.asked.length).toBe(1);
    link.stop();
    await expect(read).rejects.toMatchObject({ code: 'cancelled' });
    await expect.poll(() => reader.asked[0]?.signal.aborted).toBe(true);
    await expect.poll(() => node.engine.trees()).toEqual([]);
  });
});

describe('AgentLink', () => {
  /** Something that answers each connection with these bytes. */
  async function serve(bytes: Uint8Array): Promise<string> {
    const path = join(tempFolder(), 'agent.sock');
    const sockets = new Set<Socket>();
    const server = createServer((socket) => {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.once('data', () => socket.write(bytes));
    });
    server.listen(path);
    await once(server, 'listening');
    onTestFinished(async () => {
      server.close();
      for (const socket of sockets) socket.destroy();
      await once(server, 'close');
    });
    return path;
  }

  const OTHER_VERSION = frames.encodeRefused('no');
  new DataView(OTHER_VERSION.buffer).setUint16(FRAME_HEAD_BYTES, 9, true);

  it.each([
    ['noise', new Uint8Array(100).fill(0xee), /does not belong here/],
    ['another version', OTHER_VERSION, /it speaks version 9, this process 1/],
    ['a refusal', frames.encodeRefused('not now'), /the agent refused: not now/],
    ['a frame that is not WELCOME', EXAMPLES['ERROR'], /began with a frame of type 10/],
  ])('AgentLink.open() fails when the agent says %s', async (_, bytes, why) => {
    const link = startLink(await serve(defined(bytes, 'bytes')));
    const image = { reference: 'registry.test/app:1', layers: [] };
    const opened = link.open(image, signal, { timeoutMs: 500 });
    await expect(opened).rejects.toMatchObject({ code: 'unreachable' });
    await expect(opened).rejects.toThrow(why);
  });

  it('gives up a connection on which the agent answers what was not asked', async () => {
    const welcome = frames.encodeWelcome('9');
    const failure = frames.encodeError(999, { code: 'failed', text: 'no' });
    for (const frame of [frames.encodeOpened(999, { layers: [] }), failure]) {
      const path = await serve(Buffer.concat([welcome, frame]));
      const link = startLink(path);
      const opened = link.open({ reference: 'r.test/a:1', layers: [] }, signal, { timeoutMs: 500 });
      await expect(opened).rejects.toThrow(/answers nothing that was asked/);
    }
  });
});
