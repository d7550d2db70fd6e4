import { afterEach, describe, expect, it } from 'vitest';
import { blockIndex, BLOCK_SIZE_BYTES } from '../../src/image/block.ts';
import {
  PREFETCHES_IN_FLIGHT_MAX,
  REQUESTS_IN_FLIGHT_MAX,
  REQUESTS_QUEUED_MAX,
} from '../../src/net/limits.ts';
import { publicKeyOf } from '../../src/net/node/identity.ts';
import type { PendingBlock } from '../../src/transfer/contracts/transport.ts';
import { bytesEqual } from '../../src/util/bytes.ts';
import { identity } from '../kit/identity.ts';
import {
  answerNow,
  blockAnswer,
  blockRequest,
  bytesOf,
  startAgent,
  stopAgents,
  DIGEST,
} from './kit/transports.ts';

afterEach(stopAgents);

describe('Libp2pTransport', () => {
  it('Libp2pTransport.self is the name of the public key', async () => {
    const child = await startAgent(1);
    expect(publicKeyOf(child.transport.self)).toEqual(identity(1).publicKey);
  });

  it('Libp2pTransport.requestBlock() brings a block and its attestation', async () => {
    const [child, parent] = [await startAgent(1), await startAgent(2)];
    parent.server.handle = (incoming) => answerNow(incoming);
    const request = blockRequest({ index: blockIndex(7) });
    const answer = await child.transport.requestBlock(parent.host, request).answer;
    expect(bytesEqual(answer.payload.bytes, bytesOf(7))).toBe(true);
    expect(answer.attestation).toEqual(blockAnswer(7).attestation);
    answer.payload.release();
  });

  it('Libp2pTransport.requestBlock() hands the request over as it was made', async () => {
    const [child, parent] = [await startAgent(1), await startAgent(2)];
    const request = blockRequest({
      index: blockIndex(9),
      kind: 'prefetch',
      hops: 3,
      timeoutMs: 5000,
    });
    child.transport.requestBlock(parent.host, request);
    await parent.server.until(() => parent.server.requests.length === 1);
    const incoming = parent.server.requests[0];
    expect(incoming?.peer).toBe(child.transport.self);
    expect(incoming?.request).toMatchObject({
      digest: DIGEST,
      index: 9,
      kind: 'prefetch',
      hops: 3,
    });
    expect(incoming?.request.timeoutMs).toBeLessThanOrEqual(5000);
  });

  it('Libp2pTransport.requestBlock() keeps many requests of all sizes apart', async () => {
    const [child, parent] = [await startAgent(1), await startAgent(2)];
    const sizeOf = (index: number): number => 1 + ((index * 7919) % BLOCK_SIZE_BYTES);
    parent.server.handle = (incoming) => answerNow(incoming, sizeOf(incoming.request.index));
    const reads = Array.from({ length: 200 }, async (_, i) => {
      const kind = i % 3 === 0 ? 'demand' : 'prefetch';
      const request = blockRequest({ index: blockIndex(i), kind });
      const { payload } = await child.transport.requestBlock(parent.host, request).answer;
      expect(bytesEqual(payload.bytes, bytesOf(i, sizeOf(i)))).toBe(true);
      payload.release();
    });
    await Promise.all(reads);
  });

  it('Libp2pTransport.requestBlock() goes both ways over one connection', async () => {
    const [one, other] = [await startAgent(1), await startAgent(2)];
    const asked: string[] = [];
    one.server.handle = (incoming) => {
      asked.push('one');
      answerNow(incoming);
    };
    other.server.handle = (incoming) => {
      asked.push('other');
      answerNow(incoming);
    };
    (await one.transport.requestBlock(other.host, blockRequest()).answer).payload.release();
    const noAddress = { peer: one.transport.self, addresses: [] };
    (await other.transport.requestBlock(noAddress, blockRequest()).answer).payload.release();
    expect(asked).toEqual(['other', 'one']);
  });

  it('PendingBlock.cancel() reaches the peer and frees the credit', async () => {
    const [child, parent] = [await startAgent(1), await startAgent(2)];
    const pending = Array.from({ length: REQUESTS_IN_FLIGHT_MAX }, (_, i) =>
      child.transport.requestBlock(parent.host, blockRequest({ index: blockIndex(i) })),
    );
    await parent.server.until(() => parent.server.requests.length === pending.length);
    for (const block of pending) block.cancel();
    for (const block of pending) {
      await expect(block.answer).rejects.toMatchObject({ code: 'cancelled' });
    }
    await parent.server.until(() => parent.server.cancelled.length === pending.length);
    for (const incoming of parent.server.requests) answerNow(incoming);
    parent.server.handle = (incoming) => answerNow(incoming);
    const next = await child.transport.requestBlock(parent.host, blockRequest()).answer;
    expect(bytesEqual(next.payload.bytes, bytesOf(0))).toBe(true);
  });

  it('PendingBlock.promote() reaches the peer', async () => {
    const [child, parent] = [await startAgent(1), await startAgent(2)];
    const pending = child.transport.requestBlock(parent.host, blockRequest({ kind: 'prefetch' }));
    await parent.server.until(() => parent.server.requests.length === 1);
    pending.promote();
    await parent.server.until(() => parent.server.promoted.length === 1);
    expect(parent.server.promoted[0]).toBe(parent.server.requests[0]);
    expect(parent.server.promoted[0]?.request.kind).toBe('demand');
  });

  it('requestBlock() keeps credit for demand reads when prefetches fill theirs', async () => {
    const [child, parent] = [await startAgent(1), await startAgent(2)];
    for (let i = 0; i < 100; i++) {
      child.transport.requestBlock(
        parent.host,
        blockRequest({ index: blockIndex(i), kind: 'prefetch' }),
      );
    }
    const { requests } = parent.server;
    await parent.server.until(() => requests.length === PREFETCHES_IN_FLIGHT_MAX);
    child.transport.requestBlock(parent.host, blockRequest({ index: blockIndex(1000) }));
    await parent.server.until(() => requests.some(({ request }) => request.kind === 'demand'));
    expect(requests.length).toBe(PREFETCHES_IN_FLIGHT_MAX + 1);
  });

  it('Libp2pTransport.requestBlock() rejects with overloaded beyond the local queue', async () => {
    const [child, parent] = [await startAgent(1), await startAgent(2)];
    const pending: PendingBlock[] = [];
    for (let i = 0; i <= REQUESTS_QUEUED_MAX; i++) {
      pending.push(child.transport.requestBlock(parent.host, blockRequest()));
    }
    await expect(pending.at(-1)?.answer).rejects.toMatchObject({
      detail: { code: 'overloaded', retryAfterMs: 100 },
    });
  });

  it('IncomingBlockRequest.fail() sends the code, or not-found for internal ones', async () => {
    const [child, parent] = [await startAgent(1), await startAgent(2)];
    const codes = [
      'unknown-blob',
      'not-found',
      'hops',
      'refused',
      'timeout',
      'unreachable',
      'protocol',
    ] as const;
    for (const code of codes) {
      parent.server.handle = (incoming) => incoming.fail({ code });
      const told = ['timeout', 'unreachable', 'protocol'].includes(code) ? 'not-found' : code;
      const { answer } = child.transport.requestBlock(parent.host, blockRequest());
      await expect(answer).rejects.toMatchObject({ code: told });
    }
    parent.server.handle = (incoming) => incoming.fail({ code: 'overloaded', retryAfterMs: 250 });
    const { answer } = child.transport.requestBlock(parent.host, blockRequest());
    await expect(answer).rejects.toMatchObject({
      detail: { code: 'overloaded', retryAfterMs: 250 },
    });
  });

  it('requestBlock() rejects with timeout when the peer does not answer in time', async () => {
    const [child, parent] = [await startAgent(1), await startAgent(2)];
    const pending = child.transport.requestBlock(parent.host, blockRequest({ timeoutMs: 300 }));
    await expect(pending.answer).rejects.toMatchObject({ code: 'timeout' });
    await parent.server.until(() => parent.server.cancelled.length === 1);
  });

  it('requestBlock() rejects with unreachable without a listener, then at once', async () => {
    const [child, parent] = [await startAgent(1), await startAgent(2)];
    await parent.stop();
    for (let i = 0; i < 3; i++) {
      const { answer } = child.transport.requestBlock(parent.host, blockRequest());
      await expect(answer).rejects.toMatchObject({ code: 'unreachable' });
    }
    expect(child.metrics.values.get('xylem_net_dial_failed_total{}')).toBe(1);
  });

  it('requestBlock() rejects with unreachable when another host has the address', async () => {
    const [child, parent, other] = [await startAgent(1), await startAgent(2), await startAgent(3)];
    const host = { peer: parent.host.peer, addresses: other.host.addresses };
    const { answer } = child.transport.requestBlock(host, blockRequest());
    await expect(answer).rejects.toMatchObject({ code: 'unreachable' });
    expect(other.server.requests).toEqual([]);
  });

  it('Libp2pTransport.requestBlock() dials names', async () => {
    const [child, parent] = [await startAgent(1), await startAgent(2)];
    parent.server.handle = (incoming) => answerNow(incoming);
    const addresses = parent.host.addresses.map((text) =>
      text.replace('/ip4/127.0.0.1', '/dns4/localhost'),
    );
    const host = { peer: parent.host.peer, addresses };
    const { payload } = await child.transport.requestBlock(host, blockRequest()).answer;
    expect(bytesEqual(payload.bytes, bytesOf(blockRequest().index))).toBe(true);
    payload.release();
  });

  it('Libp2pTransport.sendOrder() and sendAlive() reach a peer that asked', async () => {
    const [child, parent] = [await startAgent(1), await startAgent(2)];
    parent.server.handle = (incoming) => answerNow(incoming);
    (await child.transport.requestBlock(parent.host, blockRequest()).answer).payload.release();
    const indices = Array.from({ length: 5000 }, (_, i) => blockIndex(i));
    parent.transport.sendOrder(child.transport.self, { digest: DIGEST, indices });
    parent.transport.sendAlive(child.transport.self);
    await child.server.until(() => child.server.orders.length === 2 && child.server.alive === 1);
    expect(child.server.orders.flatMap((order) => order.indices)).toEqual(indices);
    child.transport.sendAlive(parent.transport.self);
  });

  it('onPeerGone() is called at the last close, onCancel() for open requests', async () => {
    const [child, parent] = [await startAgent(1), await startAgent(2)];
    child.transport.requestBlock(parent.host, blockRequest());
    await parent.server.until(() => parent.server.requests.length === 1);
    await child.stop();
    await parent.server.until(() => parent.server.gone.length === 1);
    expect(parent.server.gone).toEqual([child.transport.self]);
    expect(parent.server.cancelled).toEqual(parent.server.requests);
  });

  it('Libp2pTransport.stop() rejects what is pending with unreachable', async () => {
    const [child, parent] = [await startAgent(1), await startAgent(2)];
    const pending = Array.from({ length: 60 }, () =>
      child.transport.requestBlock(parent.host, blockRequest()),
    );
    await parent.server.until(() => parent.server.requests.length > 0);
    await child.stop();
    for (const { answer } of pending)
      await expect(answer).rejects.toMatchObject({ code: 'unreachable' });
    const late = child.transport.requestBlock(parent.host, blockRequest());
    await expect(late.answer).rejects.toMatchObject({ code: 'unreachable' });
  });

  it('requestBlock() fails when the peer stops, and connects anew when it is back', async () => {
    const [child, parent] = [await startAgent(1), await startAgent(2)];
    const pending = child.transport.requestBlock(parent.host, blockRequest());
    await parent.server.until(() => parent.server.requests.length === 1);
    await parent.stop();
    await expect(pending.answer).rejects.toMatchObject({
      code: expect.stringMatching(/unreachable|not-found/),
    });
    const again = await startAgent(2);
    again.server.handle = (incoming) => answerNow(incoming);
    (await child.transport.requestBlock(again.host, blockRequest()).answer).payload.release();
  });
});
