import { EventEmitter } from 'node:events';
import type { ServerResponse } from 'node:http';
import { describe, expect, it } from 'vitest';
import { HeldBytes } from '../../../src/edge/http/held-bytes.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

/** What counts of a response: that it closes, by itself or by force. */
class ResponseTwin extends EventEmitter {
  closed = false;

  destroy(): void {
    this.closed = true;
    this.emit('close');
  }
}

function start(bytesMax: number) {
  const clock = new ManualClock();
  const seen = { heldBytes: 0, cutCount: 0 };
  const held = new HeldBytes(
    {
      clock,
      gauge: { set: (_, value) => void (seen.heldBytes = value) },
      cut: { inc: () => void seen.cutCount++ },
    },
    { bytesMax, kind: 'read' },
  );
  const run = (bytes: number, signal = new AbortController().signal, task = async () => {}) => {
    const response = new ResponseTwin();
    const done = held.run({ response: response as unknown as ServerResponse, bytes, signal }, task);
    const state = { response, isRun: false };
    const ended = done.then(() => {
      state.isRun = true;
    });
    return Object.assign(state, { ended });
  };
  return { clock, seen, run, held };
}

const turns = async (): Promise<void> => {
  for (let i = 0; i < 10; i++) await Promise.resolve();
};

describe('HeldBytes.run()', () => {
  it('counts an answer until its response closes; the next wait in arrival order', async () => {
    const { seen, run } = start(100);
    const [first, second] = [run(60), run(40)];
    await Promise.all([first.ended, second.ended]);
    expect(seen.heldBytes).toBe(100);
    const large = run(80);
    const small = run(1);
    second.response.destroy();
    await turns();
    expect([large.isRun, small.isRun, seen.heldBytes]).toEqual([false, false, 60]);
    first.response.destroy();
    await Promise.all([large.ended, small.ended]);
    expect(seen.heldBytes).toBe(81);
    large.response.destroy();
    small.response.destroy();
    expect([seen.heldBytes, seen.cutCount]).toEqual([0, 0]);
  });

  it('cuts answers that their clients do not take, when others wait, and only then', async () => {
    const { clock, seen, run } = start(100);
    const stuck = run(50);
    await stuck.ended;
    clock.advance(60_000);
    expect(seen.cutCount).toBe(0);
    const young = run(50);
    await young.ended;
    const next = run(50);
    await next.ended;
    expect([stuck.response.closed, young.response.closed, seen.cutCount]).toEqual([true, false, 1]);
    // The young ones have their time too.
    const last = run(100);
    clock.advance(1_500);
    await turns();
    expect(last.isRun).toBe(false);
    clock.advance(1_000);
    await last.ended;
    expect([seen.heldBytes, seen.cutCount]).toEqual([100, 3]);
    expect(clock.delays.length).toBeLessThanOrEqual(1);
    clock.fireAll();
    expect(clock.delays).toEqual([]);
  });

  it('cuts an answer that waits for its client, none that waits for its bytes', async () => {
    const { clock, seen, held, run } = start(100);
    const reading = Promise.withResolvers<void>();
    const taking = Promise.withResolvers<void>();
    const response = new ResponseTwin();
    const { signal } = new AbortController();
    const streamed = held.run(
      { response: response as unknown as ServerResponse, bytes: 100, signal },
      async (client) => {
        await reading.promise;
        await client(taking.promise);
      },
    );
    const other = run(1);
    clock.advance(20_000);
    expect(seen.cutCount).toBe(0);
    reading.resolve();
    await turns();
    clock.advance(2_500);
    expect([response.closed, seen.cutCount]).toEqual([true, 1]);
    taking.reject(new Error('gone'));
    await expect(streamed).rejects.toThrow('gone');
    await other.ended;
    expect(seen.heldBytes).toBe(1);
  });

  it('gives room back when the task fails, and lets who gives up leave the line', async () => {
    const { seen, run } = start(100);
    const failed = run(100, undefined, () => Promise.reject(new Error('no')));
    await expect(failed.ended).rejects.toThrow('no');
    expect(seen.heldBytes).toBe(0);
    const first = run(60);
    await first.ended;
    const leaving = new AbortController();
    const large = run(100, leaving.signal);
    const small = run(40);
    await turns();
    expect(small.isRun).toBe(false);
    leaving.abort(new Error('gone'));
    await expect(large.ended).rejects.toThrow('gone');
    await small.ended;
    expect(seen.heldBytes).toBe(100);
  });
});
