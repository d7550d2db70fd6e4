import { describe, expect, it } from 'vitest';
import type { Random } from '../../src/runtime/random.ts';
import { DIAL_MS, LISTEN_MS, MESSAGE_BYTES } from '../../src/sim/costs.ts';
import { EventHeap } from '../../src/sim/event-heap.ts';
import type { Body, SimEvent } from '../../src/sim/events.ts';
import { Network, type Port } from '../../src/sim/network.ts';
import { Processors } from '../../src/sim/processors.ts';
import { makeBlob } from '../../src/sim/workload.ts';
import { blockIndex } from '../../src/image/block.ts';

/** No jitter, no late messages. */
const still: Random = { float: () => 0, below: () => 1e9, bytes: (count) => new Uint8Array(count) };

const BYTES_PER_MS = 1000;

function makeWorld(count: number, standing: boolean) {
  const events = new EventHeap<SimEvent>();
  const ports = Array.from(
    { length: count },
    (_, number): Port => ({
      number,
      zone: number % 2,
      standing,
      processors: new Processors({ count: 4 }),
      links: new Map(),
      up: true,
      group: 0,
      incarnation: 0,
      sendBytesPerMs: BYTES_PER_MS,
      receiveBytesPerMs: BYTES_PER_MS,
      sendFreeMs: 0,
      receiveFreeMs: 0,
    }),
  );
  const network = new Network({ events, random: still, ports }, { latencyMs: 1 });
  const next = (): { atMs: number; event: SimEvent } => {
    const atMs = events.nextMs!;
    return { atMs, event: events.pop()! };
  };
  return { events, ports, network, next };
}

/** A block so large that it takes `ms` milliseconds on a NIC. */
function block(ms: number): Body {
  const lengthBytes = ms * BYTES_PER_MS - MESSAGE_BYTES;
  const index = blockIndex(0);
  const name = { blob: makeBlob(0, 1e6), index, lengthBytes, genuine: true };
  return { kind: 'block', attempt: 1, block: name };
}

describe('Network', () => {
  it('Network.send() queues two messages at the sender and spends latency once each', () => {
    const { network, next } = makeWorld(4, true);
    network.send({ from: 0, to: 2, atMs: 0 }, block(10));
    network.send({ from: 0, to: 2, atMs: 0 }, block(10));
    // The NIC stores and forwards: 10 ms to leave, 1 ms in transit; the second message leaves after
    // the first.
    expect([next().atMs, next().atMs]).toEqual([11, 21]);
  });

  it('Network.send() queues messages of two senders at the receiver', () => {
    const { network, next } = makeWorld(6, true);
    network.send({ from: 0, to: 4, atMs: 0 }, block(10));
    network.send({ from: 2, to: 4, atMs: 0 }, block(10));
    expect([next().atMs, next().atMs]).toEqual([11, 21]);
  });

  it('Network.send() into another zone takes longer, and counts as crossing', () => {
    const { network, next } = makeWorld(4, true);
    network.send({ from: 0, to: 2, atMs: 0 }, block(10));
    network.send({ from: 1, to: 2, atMs: 100 }, block(10));
    expect([next().atMs, next().atMs]).toEqual([11, 111]);
    expect(network.counts.crossZoneBytes).toBe(10 * BYTES_PER_MS - MESSAGE_BYTES);
  });

  it('Network.send() pays for a handshake: CPU on both sides, and 1.5 round trips', () => {
    const { network, next, ports } = makeWorld(4, false);
    network.send({ from: 0, to: 2, atMs: 0 }, { kind: 'alive' });
    const dialled = next();
    expect(dialled.atMs).toBe(DIAL_MS + 1);
    if (dialled.event.type !== 'dialled') throw new Error('a dial comes first');
    network.dialled(dialled.event.link, dialled.event.startedMs, dialled.atMs);
    const open = next();
    expect(open.atMs).toBe(DIAL_MS + 1 + LISTEN_MS + 2);
    expect(ports[2]?.processors.agentFreeMs).toBe(DIAL_MS + 1 + LISTEN_MS);
    if (open.event.type !== 'open') throw new Error('then it is open');
    network.opened(open.event.link, open.atMs);
    expect(next().atMs).toBeCloseTo(open.atMs + MESSAGE_BYTES / BYTES_PER_MS + 1);
  });

  it('Network.crash() loses messages in transit and notifies the peers one latency later', () => {
    const { network, next } = makeWorld(4, true);
    network.send({ from: 0, to: 2, atMs: 0 }, block(10));
    network.crash(2, 5);
    const gone = next();
    expect(gone).toEqual({ atMs: 6, event: { type: 'gone', host: 0, peer: 2 } });
    const lost = next();
    expect(lost.event.type === 'deliver' && lost.event.link.state).toBe('closed');
  });

  it('Network holds messages back in a partition, and sends them after the heal', () => {
    const { network, next, ports } = makeWorld(4, true);
    ports[2]!.group = 1;
    network.send({ from: 0, to: 2, atMs: 0 }, block(10));
    ports[2]!.group = 0;
    network.healed(100);
    expect(next()).toMatchObject({ atMs: 111, event: { type: 'deliver' } });
  });

  it('Network ends a connection that a partition stalls for 10 s', () => {
    const { network, next, ports } = makeWorld(4, true);
    ports[2]!.group = 1;
    network.send({ from: 0, to: 2, atMs: 0 }, block(10));
    const stalled = next();
    expect(stalled.atMs).toBe(10_000);
    if (stalled.event.type !== 'stalled') throw new Error('the stall ends');
    network.stallEnded(stalled.event.link, stalled.atMs);
    expect([next().event, next().event]).toEqual([
      { type: 'gone', host: 0, peer: 2 },
      { type: 'gone', host: 2, peer: 0 },
    ]);
  });

  it.each([
    { name: 'a host that is down after a round trip', up: false, group: 0, atMs: DIAL_MS + 2 },
    { name: 'the other side of a partition after 5 s', up: true, group: 1, atMs: 5000 },
  ])('Network.dialled() fails a dial to $name', ({ up, group, atMs }) => {
    const { network, next, ports } = makeWorld(4, false);
    Object.assign(ports[2]!, { up, group });
    network.send({ from: 0, to: 2, atMs: 0 }, { kind: 'alive' });
    const dialled = next();
    if (dialled.event.type !== 'dialled') throw new Error('a dial comes first');
    network.dialled(dialled.event.link, dialled.event.startedMs, dialled.atMs);
    expect(next()).toMatchObject({ atMs, event: { type: 'dial-failed' } });
  });
});
