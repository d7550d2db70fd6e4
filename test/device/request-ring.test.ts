import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { RequestRing, type RingEntry } from '../../src/device/fuse/request-ring.ts';

function entry(i: number): RingEntry {
  return { unique: { low: i >>> 0, high: 7 }, offset: i * 2 ** 33 + 512, length: i % 1000 };
}

describe('RequestRing', () => {
  it('gives entries in order, with offsets beyond 2^32 and numbers beyond 2^31', () => {
    const ring = new RequestRing(new SharedArrayBuffer(RequestRing.sizeBytes));
    const entries = [
      entry(1),
      entry(3),
      { ...entry(5), unique: { low: 2 ** 32 - 1, high: 2 ** 31 } },
    ];
    for (const one of entries) ring.put(one);
    expect([ring.take(), ring.take(), ring.take(), ring.take()]).toEqual([...entries, undefined]);
  });

  it('requests a wake only while the consumer sleeps', () => {
    const ring = new RequestRing(new SharedArrayBuffer(RequestRing.sizeBytes));
    expect(ring.put(entry(1))).toBe(false);
    expect(ring.sleep()).toBe(false); // The ring has an entry.
    ring.take();
    expect(ring.sleep()).toBe(true);
    expect(ring.put(entry(2))).toBe(true);
    expect(ring.put(entry(3))).toBe(false); // One wake is enough.
  });

  it('makes a producer wait while it is full, and loses nothing', async () => {
    const shared = new SharedArrayBuffer(RequestRing.sizeBytes);
    const ring = new RequestRing(shared);
    const source = new URL('./kit/ring-producer.ts', import.meta.url);
    const count = 20_000;
    const worker = new Worker(source, {
      workerData: { shared, count },
      execArgv: ['--no-warnings'],
    });
    const seen: number[] = [];
    const done = new Promise<void>((resolve, reject) => {
      worker.on('error', reject);
      worker.on('exit', () => resolve());
      worker.on('message', () => {
        for (;;) {
          const taken = ring.take();
          if (taken !== undefined) seen.push(taken.unique.low);
          else if (ring.sleep()) break;
        }
      });
    });
    // As in a server, the consumer sleeps before the first request can arrive. It takes earlier
    // entries when it wakes.
    if (!ring.sleep()) worker.emit('message', 0);
    await done;
    for (let taken = ring.take(); taken !== undefined; taken = ring.take()) {
      seen.push(taken.unique.low);
    }
    expect(seen).toEqual(Array.from({ length: count }, (_, i) => i));
  });
});
