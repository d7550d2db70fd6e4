import type { Stream } from '@libp2p/interface';
import { describe, expect, it } from 'vitest';
import { SMALL_FRAMES_QUEUED_MAX, TREE_CHUNK_BYTES } from '../../../src/net/limits.ts';
import { TREE } from '../../../src/net/calls/call-message.ts';
import { TreeSender } from '../../../src/net/calls/call-sender.ts';

/** A stream that takes one frame, and the next when it is told to. */
class SlowStream extends EventTarget {
  status = 'open';
  writeStatus = 'writable';
  writableNeedsDrain = false;
  writeBufferLength = 0;
  /** Ids of the frames that it took. */
  readonly ids: number[] = [];

  send(frame: Uint8Array): boolean {
    this.ids.push(new DataView(frame.buffer).getUint32(5, true));
    this.writableNeedsDrain = true;
    return false;
  }

  async drain(): Promise<void> {
    this.writableNeedsDrain = false;
    this.dispatchEvent(new Event('drain'));
    // The sender looks again a microtask later.
    await new Promise((resolve) => setImmediate(resolve));
  }
}

function slowSender(): { stream: SlowStream; sender: TreeSender } {
  const stream = new SlowStream();
  return { stream, sender: new TreeSender(stream as unknown as Stream) };
}

function message(id: number, frameCount = 1): { id: number; type: number; body: Uint8Array } {
  return { id, type: TREE.OK, body: new Uint8Array(frameCount * TREE_CHUNK_BYTES) };
}

describe('TreeSender', () => {
  it('TreeSender.send() takes a frame of each message in turn, as the socket does', async () => {
    const { stream, sender } = slowSender();
    const sent: number[] = [];
    sender.send(message(1, 4), () => sent.push(1));
    sender.send(message(2), () => sent.push(2));
    expect(stream.ids).toEqual([1]);
    for (let i = 0; i < 5; i++) await stream.drain();
    expect(stream.ids).toEqual([1, 1, 2, 1, 1]);
    expect(sent).toEqual([2, 1]);
  });

  it('TreeSender.withdraw() takes out what has not begun', async () => {
    const { stream, sender } = slowSender();
    for (const id of [1, 2]) sender.send(message(id, 2));
    expect([1, 2, 3].map((id) => sender.withdraw(id))).toEqual(['begun', 'withdrawn', 'absent']);
    for (let i = 0; i < 3; i++) await stream.drain();
    expect(stream.ids).toEqual([1, 1]);
  });

  it('TreeSender.send() says when a peer does not read', () => {
    const { sender } = slowSender();
    // The first is with the stream.
    for (let id = 0; id <= SMALL_FRAMES_QUEUED_MAX; id++)
      expect(sender.send(message(id))).toBe(true);
    expect(sender.send(message(0))).toBe(false);
  });
});
