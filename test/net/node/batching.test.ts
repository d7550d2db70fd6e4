import { Socket } from 'node:net';
import { noise } from '@chainsafe/libp2p-noise';
import type { Stream } from '@libp2p/interface';
import { tcp } from '@libp2p/tcp';
import { yamux } from '@libp2p/yamux';
import { createLibp2p, type Libp2p } from 'libp2p';
import { afterEach, expect, it, vi } from 'vitest';
import { fewerWindowUpdates, inOneWrite } from '../../../src/net/node/batching.ts';
import { STREAM_WINDOW_BYTES } from '../../../src/net/limits.ts';

const MESSAGES = 50;
const PROTOCOL = '/test/batching';

const running: Libp2p[] = [];

afterEach(async () => {
  for (const node of running.splice(0)) await node.stop();
});

async function startNode(): Promise<Libp2p> {
  const node = await createLibp2p({
    addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
    transports: [tcp()],
    connectionEncrypters: [inOneWrite(noise())],
    streamMuxers: [fewerWindowUpdates(yamux(), STREAM_WINDOW_BYTES)],
  });
  running.push(node);
  return node;
}

/** A stream from one node to another. */
async function connect() {
  const [near, far] = [await startNode(), await startNode()];
  const opened = Promise.withResolvers<Stream>();
  await far.handle(PROTOCOL, (stream) => opened.resolve(stream));
  const stream = await near.dialProtocol(far.getMultiaddrs(), PROTOCOL);
  return { stream, remote: await opened.promise };
}

/** Sends messages one after the other, each when the last one has come. */
async function sendEach(stream: Stream, remote: Stream, bytes: number): Promise<void> {
  let come = 0;
  let wake = (): void => {};
  remote.addEventListener('message', (event) => {
    come += event.data.byteLength;
    wake();
  });
  for (let i = 1; i <= MESSAGES; i++) {
    stream.send(new Uint8Array(bytes));
    while (come < i * bytes) await new Promise<void>((resolve) => (wake = resolve));
  }
}

it('sends a small message in one write, and nothing back for it', async () => {
  const { stream, remote } = await connect();
  await sendEach(stream, remote, 5);
  const writes = [vi.spyOn(Socket.prototype, '_write'), vi.spyOn(Socket.prototype, '_writev')];
  await sendEach(stream, remote, 5);
  const count = writes.reduce((sum, { mock }) => sum + mock.calls.length, 0);
  for (const write of writes) write.mockRestore();
  expect(count).toBe(MESSAGES);
});

it('lets a sender go on beyond the window', async () => {
  const { stream, remote } = await connect();
  const bytes = Math.ceil((4 * STREAM_WINDOW_BYTES) / MESSAGES);
  await sendEach(stream, remote, bytes);
  const whole = new Uint8Array(3 * STREAM_WINDOW_BYTES);
  let come = 0;
  const all = new Promise<void>((resolve) => {
    remote.addEventListener('message', (event) => {
      come += event.data.byteLength;
      if (come === whole.length) resolve();
    });
  });
  stream.send(whole);
  await all;
  expect(come).toBe(whole.length);
});
