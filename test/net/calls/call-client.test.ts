import type { Connection, Stream, StreamMessageEvent } from '@libp2p/interface';
import { afterEach, describe, expect, it } from 'vitest';
import { blockIndex } from '../../../src/image/block.ts';
import { MANIFEST_SIZE_BYTES_MAX } from '../../../src/image/manifest.ts';
import { netMetrics } from '../../../src/net/metrics.ts';
import { TreeClient } from '../../../src/net/calls/call-client.ts';
import { CALLS } from '../../../src/net/calls/call-table.ts';
import { TREE_PROTOCOL } from '../../../src/net/calls/call-link.ts';
import { TREE, messageFrames, type TreeMessage } from '../../../src/net/calls/call-message.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { PeerError } from '../../../src/transfer/contracts/transport.ts';
import type { JoinRequest } from '../../../src/tree/messages.ts';
import { TreeError } from '../../../src/tree/errors.ts';
import { OriginError } from '../../../src/transfer/contracts/origin.ts';
import { peerId } from '../../../src/util/peer-id.ts';
import { anyMessages, hostOf, startRaw, stopRaws } from '../kit/raw-peer.ts';
import { DIGEST, startAgent, stopAgents } from '../kit/transports.ts';

afterEach(async () => {
  await stopRaws();
  await stopAgents();
});

const ORIGIN = { registry: 'r.io', repository: 'a/b' };
const OPEN_REQUEST = { digest: DIGEST, origin: ORIGIN };
const OPENED = {
  outcome: 'open',
  key: DIGEST,
  sizeBytes: 12_345,
  isPublic: true,
  isBelieved: true,
} as const;
const DEAD_HOST = { peer: peerId('12D3KooWdead'), addresses: [] };
const NO_SIGNAL = new AbortController().signal;

/**
 * A client whose streams are all this one, on which nothing ever happens, whatever is done to it.
 */
function clientOver(state: { status: string; writeStatus: string }): TreeClient {
  const deaf = { send: () => true, abort: () => {}, close: () => Promise.resolve() };
  const stream = Object.assign(new EventTarget(), deaf, state);
  const connection = { newStream: () => Promise.resolve(stream) } as unknown as Connection;
  return new TreeClient({
    clock: new SystemClock(),
    metrics: netMetrics(silentMetrics),
    connect: () => Promise.resolve(connection),
    onSilent: () => {},
  });
}

/** Answers each message that comes on a stream; not at all where there is no answer. */
function answerAll(
  stream: Stream,
  answer: (message: TreeMessage) => Omit<TreeMessage, 'id'> | undefined,
): void {
  const parser = anyMessages((message) => {
    // On a busy machine the caller asks whether this peer lives.
    const isPing = message.type === TREE.PING;
    const reply = isPing ? { type: TREE.PONG, body: new Uint8Array() } : answer(message);
    if (reply === undefined) return;
    for (const frame of messageFrames({ id: message.id, ...reply })) stream.send(frame);
  });
  stream.addEventListener('message', (event: StreamMessageEvent) => {
    parser.accept(event.data.subarray());
  });
}

/** Calls until it works: the other side hears of a lost stream a little later. */
async function eventually(call: () => Promise<unknown>): Promise<void> {
  for (;;) {
    try {
      await call();
      return;
    } catch (error) {
      expect(error).toMatchObject({ code: 'unreachable' });
    }
  }
}

describe('TreeClient', () => {
  it('TreeClient.call() rejects at once when its stream was reset before use', async () => {
    const client = clientOver({ status: 'reset', writeStatus: 'closed' });
    const call = client.call(DEAD_HOST, 'leave', { digests: [DIGEST] }, NO_SIGNAL);
    await expect(call).rejects.toMatchObject({ code: 'unreachable' });
  });

  it('TreeClient.call() ends with its signal over a stream that never ends', async () => {
    const client = clientOver({ status: 'open', writeStatus: 'writable' });
    const limit = new AbortController();
    const call = client.call(DEAD_HOST, 'leave', { digests: [DIGEST] }, limit.signal);
    limit.abort(new Error('the agent stops'));
    await expect(call).rejects.toMatchObject({ code: 'cancelled' });
    client.stop();
  });

  it('TreeClient.call() carries every call and its reply', async () => {
    const heard: unknown[] = [];
    const root = await startAgent(2, {
      join: (peer, request) => {
        heard.push(peer, request);
        const place = {
          digest: DIGEST,
          stripe: 0,
          epoch: 1,
          path: [request.host],
          alternates: [],
        };
        const { peer: name, addresses } = request.host;
        return Promise.resolve({
          places: [{ ...place, path: [{ peer: name, addresses }] }],
          orders: [{ digest: DIGEST, indices: [blockIndex(3)] }],
        });
      },
      leave: (_peer, request) => {
        heard.push(request);
        return Promise.resolve();
      },
      report: () => Promise.resolve({ places: [], unknown: [DIGEST] }),
      resolve: () =>
        Promise.resolve({
          manifestDigest: DIGEST,
          manifest: new Uint8Array(MANIFEST_SIZE_BYTES_MAX).fill(7),
          origin: ORIGIN,
        }),
      'open-blob': () => Promise.resolve(OPENED),
      manifest: (_peer, request) => {
        heard.push(request);
        return Promise.resolve({
          outcome: 'found' as const,
          digest: DIGEST,
          mediaType: 'a/b',
          ageMs: 7,
          bytes: new Uint8Array(MANIFEST_SIZE_BYTES_MAX).fill(9),
        });
      },
    });
    const child = await startAgent(1);
    const join: JoinRequest = {
      host: { ...child.host, zone: 'z', capacity: 2 },
      blobs: [
        { blob: { digest: DIGEST, sizeBytes: 9 }, origin: ORIGIN, stripes: [0], held: [[0, 1]] },
      ],
    };
    const joined = await child.transport.call(root.host, 'join', join, NO_SIGNAL);
    expect(joined.places[0]?.path).toEqual([child.host]);
    expect(joined.orders).toEqual([{ digest: DIGEST, indices: [3] }]);
    await child.transport.call(root.host, 'leave', { digests: [DIGEST] }, NO_SIGNAL);
    expect(heard).toEqual([child.transport.self, join, { digests: [DIGEST] }]);
    const held = [{ digest: DIGEST, stripe: 0, epoch: 1 }];
    expect(
      await child.transport.call(root.host, 'report', { lost: [root.host.peer], held }, NO_SIGNAL),
    ).toEqual({ places: [], unknown: [DIGEST] });
    const resolved = await child.transport.call(
      root.host,
      'resolve',
      { reference: 'x' },
      NO_SIGNAL,
    );
    expect(resolved.manifest.length).toBe(MANIFEST_SIZE_BYTES_MAX);
    expect(resolved.manifest.every((byte) => byte === 7)).toBe(true);
    expect(
      await child.transport.call(
        root.host,
        'open-blob',
        { digest: DIGEST, origin: ORIGIN },
        NO_SIGNAL,
      ),
    ).toEqual(OPENED);
    const wanted = { origin: ORIGIN, reference: '1' };
    const manifest = await child.transport.call(root.host, 'manifest', wanted, NO_SIGNAL);
    expect(heard.at(-1)).toEqual(wanted);
    expect(manifest).toMatchObject({ outcome: 'found', mediaType: 'a/b', ageMs: 7 });
  });

  it('TreeClient.call() runs many calls at once, more than a peer takes', async () => {
    let open = 0;
    let openMax = 0;
    const root = await startAgent(2, {
      'open-blob': async () => {
        openMax = Math.max(openMax, ++open);
        await new Promise((resolve) => setImmediate(resolve));
        open--;
        return OPENED;
      },
    });
    const child = await startAgent(1);
    const request = { digest: DIGEST, origin: ORIGIN };
    const calls = Array.from({ length: 60 }, () =>
      child.transport.call(root.host, 'open-blob', request, NO_SIGNAL),
    );
    expect(await Promise.all(calls)).toHaveLength(60);
    expect(openMax).toBeLessThanOrEqual(8);
  });

  it('TreeClient.call() rejects with a code, never with the text of the peer', async () => {
    const errors: readonly [Error, object][] = [
      [new Error('secret text'), { code: 'refused' }],
      [new PeerError('x', { code: 'unknown-blob' }), { code: 'unknown-blob' }],
      [new OriginError('x', { code: 'not-found' }), { code: 'not-found' }],
      [
        new TreeError('x', { code: 'full', what: 'hosts', limit: 1 }),
        { code: 'overloaded', retryAfterMs: 100 },
      ],
    ];
    const queue = errors.map(([error]) => error);
    const root = await startAgent(2, {
      leave: () => Promise.reject(queue.shift() ?? new Error('none left')),
    });
    const child = await startAgent(1);
    for (const [, detail] of errors) {
      const failure: unknown = await child.transport
        .call(root.host, 'leave', { digests: [] }, NO_SIGNAL)
        .catch((error: unknown) => error);
      expect(failure).toBeInstanceOf(PeerError);
      expect((failure as PeerError).detail).toEqual(detail);
      expect(String(failure)).not.toContain('secret');
    }
  });

  it('TreeClient.call() rejects with refused at a host that is no root', async () => {
    const [child, other] = [await startAgent(1), await startAgent(2)];
    await expect(
      child.transport.call(other.host, 'resolve', { reference: 'x' }, NO_SIGNAL),
    ).rejects.toMatchObject({ code: 'refused' });
  });

  it('TreeClient.call() rejects with refused when the request breaks a bound', async () => {
    const [child, other] = [await startAgent(1), await startAgent(2)];
    const reference = 'x'.repeat(2000);
    await expect(
      child.transport.call(other.host, 'resolve', { reference }, NO_SIGNAL),
    ).rejects.toMatchObject({ code: 'refused' });
  });

  it('TreeClient.call() rejects with cancelled when the signal aborts', async () => {
    const abort = new AbortController();
    const root = await startAgent(2, {
      resolve: () => {
        abort.abort();
        return new Promise(() => {});
      },
    });
    const child = await startAgent(1);
    const call = child.transport.call(root.host, 'resolve', { reference: 'x' }, abort.signal);
    await expect(call).rejects.toMatchObject({ code: 'cancelled' });
  });

  it('TreeClient.call() keeps one stream for all calls, and replaces a lost one', async () => {
    const streams: Stream[] = [];
    const raw = await startRaw(['/ip4/127.0.0.1/tcp/0']);
    await raw.handle(TREE_PROTOCOL, (stream) => {
      streams.push(stream);
      answerAll(stream, () => ({
        type: TREE.OK,
        body: CALLS['open-blob'].reply.encode(OPENED),
      }));
    });
    await raw.start();
    const child = await startAgent(1);
    const open = (): Promise<unknown> =>
      child.transport.call(hostOf(raw), 'open-blob', OPEN_REQUEST, NO_SIGNAL);
    await Promise.all([open(), open(), open()]);
    await open();
    expect(streams).toHaveLength(1);
    streams[0]?.abort(new Error('lost'));
    await eventually(open);
    expect(streams).toHaveLength(2);
  });

  it('TreeClient.call() does not wait for a manifest that another call gets', async () => {
    // The peer sends the first half of a manifest, and the rest when the other call has its reply.
    const raw = await startRaw(['/ip4/127.0.0.1/tcp/0']);
    const rest = Promise.withResolvers<void>();
    const manifest = new Uint8Array(200_000).fill(7);
    await raw.handle(TREE_PROTOCOL, (stream) => {
      answerAll(stream, ({ id, type }) => {
        if (type === CALLS['open-blob'].type) {
          return {
            type: TREE.OK,
            body: CALLS['open-blob'].reply.encode(OPENED),
          };
        }
        const body = CALLS.resolve.reply.encode({
          manifestDigest: DIGEST,
          manifest,
          origin: ORIGIN,
        });
        const [first, ...others] = messageFrames({ id, type: TREE.OK, body });
        if (first !== undefined) stream.send(first);
        void rest.promise.then(() => others.forEach((frame) => stream.send(frame)));
        return undefined;
      });
    });
    await raw.start();
    const child = await startAgent(1);
    const resolved = child.transport.call(hostOf(raw), 'resolve', { reference: 'x' }, NO_SIGNAL);
    await child.transport.call(hostOf(raw), 'open-blob', OPEN_REQUEST, NO_SIGNAL);
    rest.resolve();
    expect((await resolved).manifest).toEqual(manifest);
  });

  it('TreeClient.call() fails with timeout after 1 s at a peer that stands still', async () => {
    const raw = await startRaw(['/ip4/127.0.0.1/tcp/0']);
    await raw.handle(TREE_PROTOCOL, () => {});
    await raw.start();
    const child = await startAgent(1);
    const startedMs = performance.now();
    const calls = ['open-blob', 'open-blob', 'leave'].map((name) =>
      name === 'open-blob'
        ? child.transport.call(hostOf(raw), 'open-blob', OPEN_REQUEST, NO_SIGNAL)
        : child.transport.call(hostOf(raw), 'leave', { digests: [] }, NO_SIGNAL),
    );
    for (const call of calls) await expect(call).rejects.toMatchObject({ code: 'timeout' });
    expect(performance.now() - startedMs).toBeLessThan(2_000);
    // The connection stays: a peer that stood still for a second is not made to shake hands anew.
    expect(child.transport.peers()).toEqual([hostOf(raw).peer]);
  });

  it('TreeClient.call() finds a silent peer out also by a call that was given up', async () => {
    const raw = await startRaw(['/ip4/127.0.0.1/tcp/0']);
    await raw.handle(TREE_PROTOCOL, () => {});
    await raw.start();
    const child = await startAgent(1);
    const abort = new AbortController();
    const call = child.transport.call(hostOf(raw), 'open-blob', OPEN_REQUEST, abort.signal);
    setTimeout(() => abort.abort(), 300);
    await expect(call).rejects.toMatchObject({ code: 'cancelled' });
    await child.server.until(() => child.server.silent.length > 0);
    expect(child.server.silent).toEqual([hostOf(raw).peer]);
  });

  it('TreeClient.call() waits for a peer that lives and is slow', async () => {
    const root = await startAgent(2, {
      'open-blob': async () => {
        await new Promise((resolve) => setTimeout(resolve, 1_500));
        return OPENED;
      },
    });
    const child = await startAgent(1);
    const call = child.transport.call(root.host, 'open-blob', OPEN_REQUEST, NO_SIGNAL);
    expect(await call).toMatchObject(OPENED);
  });

  it('TreeClient.call() joins at once while calls wait for silent registries', async () => {
    const never = new Promise<never>(() => {});
    const root = await startAgent(2, {
      'open-blob': (_peer, { origin }) =>
        origin.registry === 'sound' ? Promise.resolve(OPENED) : never,
      manifest: () => never,
      join: () => Promise.resolve({ places: [], orders: [] }),
    });
    const child = await startAgent(1);
    const abort = new AbortController();
    const ask = (registry: string): Promise<unknown> =>
      child.transport.call(
        root.host,
        'open-blob',
        { digest: DIGEST, origin: { registry, repository: 'a' } },
        abort.signal,
      );
    const slow = Array.from({ length: 24 }, (_, i) => ask(`silent-${i % 3}`));
    const more = Array.from({ length: 24 }, () => ask('silent-0'));
    const host = { ...child.host, zone: 'z', capacity: 2 };
    const startedMs = performance.now();
    await child.transport.call(root.host, 'join', { host, blobs: [] }, NO_SIGNAL);
    await ask('sound');
    expect(performance.now() - startedMs).toBeLessThan(500);
    abort.abort();
    await Promise.allSettled([...slow, ...more]);
  });

  it('TreeClient.call() tells the peer that it gave up; other calls go on', async () => {
    const raw = await startRaw(['/ip4/127.0.0.1/tcp/0']);
    const heard: number[] = [];
    const abort = new AbortController();
    await raw.handle(TREE_PROTOCOL, (stream) => {
      answerAll(stream, ({ type }) => {
        heard.push(type);
        if (type === CALLS.resolve.type) abort.abort();
        if (type === CALLS.resolve.type || type === TREE.CANCEL) return undefined;
        return { type: TREE.OK, body: CALLS['open-blob'].reply.encode(OPENED) };
      });
    });
    await raw.start();
    const child = await startAgent(1);
    const call = child.transport.call(hostOf(raw), 'resolve', { reference: 'x' }, abort.signal);
    await expect(call).rejects.toMatchObject({ code: 'cancelled' });
    await child.transport.call(hostOf(raw), 'open-blob', OPEN_REQUEST, NO_SIGNAL);
    expect(heard).toEqual([CALLS.resolve.type, TREE.CANCEL, CALLS['open-blob'].type]);
  });

  it('TreeClient.call() rejects with protocol at an answer to no call', async () => {
    const raw = await startRaw(['/ip4/127.0.0.1/tcp/0']);
    await raw.handle(TREE_PROTOCOL, (stream) => {
      answerAll(stream, () => {
        for (const frame of messageFrames({ id: 99, type: TREE.OK, body: new Uint8Array() })) {
          stream.send(frame);
        }
        return undefined;
      });
    });
    await raw.start();
    const child = await startAgent(1);
    const call = child.transport.call(hostOf(raw), 'open-blob', OPEN_REQUEST, NO_SIGNAL);
    await expect(call).rejects.toMatchObject({ code: 'protocol' });
    expect(child.metrics.values.get('xylem_net_violations_total{protocol=tree}')).toBe(1);
  });

  it('TreeClient.call() rejects with unreachable when a side stops or never started', async () => {
    const asked = Promise.withResolvers<void>();
    const root = await startAgent(2, {
      resolve: () => {
        asked.resolve();
        return new Promise(() => {});
      },
    });
    const child = await startAgent(1);
    const call = child.transport.call(root.host, 'resolve', { reference: 'x' }, NO_SIGNAL);
    await asked.promise;
    await Promise.all([expect(call).rejects.toMatchObject({ code: 'unreachable' }), root.stop()]);
    await child.stop();
    await expect(
      child.transport.call(root.host, 'resolve', { reference: 'x' }, NO_SIGNAL),
    ).rejects.toMatchObject({ code: 'unreachable' });
  });
});
