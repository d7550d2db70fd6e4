import type { Connection } from '@libp2p/interface';
import type { Multiaddr } from '@multiformats/multiaddr';
import { describe, expect, it } from 'vitest';
import { Connections } from '../../../src/net/node/connections.ts';
import { peerIdOf } from '../../../src/net/node/identity.ts';
import { BACKOFF_MS_MAX, DIAL_MS } from '../../../src/net/limits.ts';
import { netMetrics } from '../../../src/net/metrics.ts';
import type { Random } from '../../../src/runtime/random.ts';
import { orAbort } from '../../../src/util/or-abort.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { identity } from '../../kit/identity.ts';
import { CountingMetrics } from '../kit/transports.ts';

const HOST = { peer: peerIdOf(identity(9)), addresses: ['/ip4/10.0.0.1/tcp/1'] };
const NO_SIGNAL = new AbortController().signal;
const MIDDLE: Random = {
  float: () => 0.5,
  below: () => 0,
  bytes: (count) => new Uint8Array(count),
};
const REFUSED = Object.assign(new Error('refused'), { code: 'ECONNREFUSED' });
const RESET = Object.assign(new Error('reset'), { code: 'ECONNRESET' });
const OPEN = { status: 'open' } as Connection;
const STRANGER = { status: 'open' } as Connection;

interface FakeNode {
  readonly dialled: string[][];
  open: Connection[];
  admitted: () => Promise<void>;
  outcome: (signal: AbortSignal) => Promise<Connection>;
}

function connectionsWith(outcome: FakeNode['outcome']): {
  clock: ManualClock;
  node: FakeNode;
  connections: Connections;
} {
  const clock = new ManualClock();
  const node: FakeNode = {
    dialled: [],
    open: [],
    outcome,
    admitted: () => Promise.resolve(),
  };
  const connections = new Connections({
    clock,
    random: MIDDLE,
    metrics: netMetrics(new CountingMetrics()),
    admission: {
      isAdmitted: (connection) => connection !== STRANGER,
      admitted: (_connection, signal) => orAbort(node.admitted(), signal),
    },
    node: {
      getConnections: () => node.open,
      dial: (addresses: Multiaddr[], { signal }) => {
        node.dialled.push(addresses.map(String));
        return node.outcome(signal);
      },
    },
  });
  return { clock, node, connections };
}

async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) await Promise.resolve();
}

describe('Connections', () => {
  it('Connections.connect() uses an open connection that is admitted', async () => {
    const { node, connections } = connectionsWith(() => Promise.reject(REFUSED));
    node.open = [{ status: 'closing' } as Connection, STRANGER, OPEN];
    expect(await connections.connect(HOST, NO_SIGNAL)).toBe(OPEN);
    expect(node.dialled).toEqual([]);
  });

  it('Connections.connect() dials once for all who ask, naming the peer', async () => {
    const { node, connections } = connectionsWith(() => Promise.resolve(OPEN));
    const both = [connections.connect(HOST, NO_SIGNAL), connections.connect(HOST, NO_SIGNAL)];
    expect(await Promise.all(both)).toEqual([OPEN, OPEN]);
    expect(node.dialled).toEqual([[`/ip4/10.0.0.1/tcp/1/p2p/${HOST.peer}`]]);
  });

  it('Connections.connect() skips invalid addresses, and rejects when none is left', async () => {
    const { node, connections } = connectionsWith(() => Promise.resolve(OPEN));
    const addresses = ['nonsense', '/ip4/999.0.0.1/tcp/1', '/ip4/10.0.0.2/tcp/2'];
    await connections.connect({ ...HOST, addresses }, NO_SIGNAL);
    expect(node.dialled).toEqual([[`/ip4/10.0.0.2/tcp/2/p2p/${HOST.peer}`]]);
    const none = connections.connect({ ...HOST, addresses: ['nonsense'] }, NO_SIGNAL);
    await expect(none).rejects.toThrow(/no usable address among \["nonsense"\]/);
  });

  it('Connections.connect() finds the one address behind seven that swallow all', async () => {
    const { clock, node, connections } = connectionsWith((signal) =>
      node.dialled.at(-1)?.[0]?.startsWith('/ip4/10.0.0.1/') === true
        ? Promise.resolve(OPEN)
        : new Promise((_resolve, reject) => {
            signal.addEventListener('abort', () => reject(signal.reason as Error));
          }),
    );
    const lost = Array.from({ length: 7 }, (_, i) => `/ip4/192.0.2.${i}/tcp/1`);
    const many = { ...HOST, addresses: [...lost, ...HOST.addresses] };
    const connecting = connections.connect(many, NO_SIGNAL);
    for (let i = 0; i < lost.length; i++) {
      await settle();
      clock.advance(DIAL_MS / 10);
    }
    expect(await connecting).toBe(OPEN);
    await connections.connect(many, NO_SIGNAL);
    expect(node.dialled.slice(7).flat()).toEqual(
      [1, 1].map(() => `/ip4/10.0.0.1/tcp/1/p2p/${HOST.peer}`),
    );
  });

  it('Connections.connect() backs off 100, 200, 400 ms ... 10 s until a success', async () => {
    const { clock, node, connections } = connectionsWith(() => Promise.reject(REFUSED));
    const pauses: number[] = [];
    for (let i = 0; i < 9; i++) {
      await expect(connections.connect(HOST, NO_SIGNAL)).rejects.toBe(REFUSED);
      const left: unknown = await connections.connect(HOST, NO_SIGNAL).catch((error) => error);
      const pauseMs = Number(/another (\d+) ms/.exec(String(left))?.[1]);
      pauses.push(pauseMs);
      clock.advance(pauseMs);
    }
    expect(pauses).toEqual([100, 200, 400, 800, 1600, 3200, 6400, BACKOFF_MS_MAX, BACKOFF_MS_MAX]);
    expect(node.dialled).toHaveLength(9);
    node.outcome = () => Promise.resolve(OPEN);
    await connections.connect(HOST, NO_SIGNAL);
    node.outcome = () => Promise.reject(REFUSED);
    await expect(connections.connect(HOST, NO_SIGNAL)).rejects.toBe(REFUSED);
    await expect(connections.connect(HOST, NO_SIGNAL)).rejects.toThrow(/another 100 ms/);
  });

  it('Connections.connect() retries at once when a full listener cut the connection', async () => {
    const outcomes = [Promise.reject(RESET), Promise.reject(RESET), Promise.resolve(OPEN)];
    for (const outcome of outcomes) outcome.catch(() => {});
    const { clock, node, connections } = connectionsWith(
      () => outcomes.shift() ?? Promise.reject(REFUSED),
    );
    const connecting = connections.connect(HOST, NO_SIGNAL);
    await settle();
    expect(clock.delays).toEqual([100, DIAL_MS]);
    clock.advance(100);
    await settle();
    clock.advance(200);
    expect(await connecting).toBe(OPEN);
    expect(node.dialled).toHaveLength(3);
    expect(clock.delays).toEqual([]);
  });

  it('Connections.connect() gives a dial up after 5 s', async () => {
    const { clock, connections } = connectionsWith(
      (signal) =>
        new Promise((_resolve, reject) => {
          signal.addEventListener('abort', () => reject(signal.reason as Error));
        }),
    );
    const connecting = connections.connect(HOST, NO_SIGNAL);
    await settle();
    clock.advance(DIAL_MS);
    await expect(connecting).rejects.toThrow(/not done within 5000 ms/);
  });

  it('Connections.connect() lets one asker go without ending the dial of the others', async () => {
    const dial = Promise.withResolvers<Connection>();
    const { connections } = connectionsWith(() => dial.promise);
    const abort = new AbortController();
    const one = connections.connect(HOST, abort.signal);
    const other = connections.connect(HOST, NO_SIGNAL);
    abort.abort(new Error('enough'));
    await expect(one).rejects.toThrow('enough');
    dial.resolve(OPEN);
    expect(await other).toBe(OPEN);
  });

  it('Connections.connect() rejects and backs off when the host is not admitted', async () => {
    const { node, connections } = connectionsWith(() => Promise.resolve(OPEN));
    node.admitted = () => Promise.reject(new Error('wrong-key'));
    await expect(connections.connect(HOST, NO_SIGNAL)).rejects.toThrow('wrong-key');
    await expect(connections.connect(HOST, NO_SIGNAL)).rejects.toThrow(/another 100 ms/);
    expect(node.dialled).toHaveLength(1);
  });

  it('Connections.connect() gives an admission up with the dial', async () => {
    const { clock, node, connections } = connectionsWith(() => Promise.resolve(OPEN));
    node.admitted = () => new Promise(() => {});
    const connecting = connections.connect(HOST, NO_SIGNAL);
    await settle();
    clock.advance(DIAL_MS);
    await expect(connecting).rejects.toThrow(/not done within 5000 ms/);
  });
});
