import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import type { HostAddress } from '../../src/tree/messages.ts';
import { answerNow, blockRequest, startAgent, stopAgents } from './kit/transports.ts';

const PEER = fileURLToPath(new URL('../../bench/net-peer.ts', import.meta.url));
const peers = new Set<ChildProcess>();

afterEach(async () => {
  await stopAgents();
  for (const peer of peers) {
    if (peer.exitCode !== null || peer.signalCode !== null) continue;
    peer.kill('SIGKILL');
    await once(peer, 'exit');
  }
  peers.clear();
});

/** A host in a process of its own, which answers from memory. */
async function startPeer(): Promise<{ peer: ChildProcess; host: HostAddress }> {
  const peer = fork(PEER, ['--bench-peer']);
  peers.add(peer);
  const [host] = (await once(peer, 'message')) as [HostAddress];
  return { peer, host };
}

describe('Libp2pTransport', () => {
  it('requestBlock() rejects with unreachable when the process of the peer is killed', async () => {
    const { peer, host } = await startPeer();
    const child = await startAgent(1);
    (await child.transport.requestBlock(host, blockRequest()).answer).payload.release();
    peer.kill('SIGSTOP');
    const pending = Array.from({ length: 50 }, () =>
      child.transport.requestBlock(host, blockRequest()),
    );
    peer.kill('SIGKILL');
    for (const { answer } of pending) {
      await expect(answer).rejects.toMatchObject({ code: 'unreachable' });
    }
    await child.server.until(() => child.server.gone.length === 1);
    expect(child.server.gone).toEqual([host.peer]);
  });

  it('requestBlock() rejects with timeout at a peer that stands still, and hangs up', async () => {
    const { peer, host } = await startPeer();
    const child = await startAgent(1);
    (await child.transport.requestBlock(host, blockRequest()).answer).payload.release();
    peer.kill('SIGSTOP');
    const short = child.transport.requestBlock(host, blockRequest({ timeoutMs: 200 }));
    await expect(short.answer).rejects.toMatchObject({ code: 'timeout' });
    // Its credit stays with the silent peer, so this one is found out by the missing sign of life.
    const long = child.transport.requestBlock(host, blockRequest({ timeoutMs: 25_000 }));
    await expect(long.answer).rejects.toMatchObject({ code: 'unreachable' });
    await child.server.until(() => child.server.gone.length === 1);
    expect(child.metrics.values.get('xylem_net_silent_total{}')).toBe(1);
  });

  it('Libp2pTransport.requestBlock() goes on when the peer stood still for a moment', async () => {
    const { peer, host } = await startPeer();
    const child = await startAgent(1);
    (await child.transport.requestBlock(host, blockRequest()).answer).payload.release();
    peer.kill('SIGSTOP');
    const pending = child.transport.requestBlock(host, blockRequest());
    peer.kill('SIGCONT');
    (await pending.answer).payload.release();
    expect(child.server.gone).toEqual([]);
  });

  it('Libp2pTransport takes connections of many hosts that start at once', async () => {
    // libp2p's own limits (5 a second from one address, 10 in their handshake) would cut most of
    // these off.
    const parent = await startAgent(100);
    parent.server.handle = (incoming) => answerNow(incoming, 100);
    const children = await Promise.all(Array.from({ length: 25 }, (_, i) => startAgent(1 + i)));
    await Promise.all(
      children.map(async ({ transport }) => {
        (await transport.requestBlock(parent.host, blockRequest()).answer).payload.release();
      }),
    );
    // On a busy machine a dialler may give up within a handshake, and dial again: that is no limit.
    const isLimit = (name: string): boolean =>
      name.includes('refused') && !name.includes('reason=handshake');
    expect([...parent.metrics.values.keys()].filter(isLimit)).toEqual([]);
  });

  it('Libp2pTransport.stop() leaves no socket and no server', async () => {
    const count = (): number =>
      process.getActiveResourcesInfo().filter((name) => name.startsWith('TCP')).length;
    // The handle of a closed listener goes one turn of the event loop later.
    await expect.poll(count).toBe(0);
    const [child, parent] = [await startAgent(1), await startAgent(2)];
    parent.server.handle = (incoming) => answerNow(incoming);
    (await child.transport.requestBlock(parent.host, blockRequest()).answer).payload.release();
    expect(count()).toBeGreaterThan(0);
    await stopAgents();
    await expect.poll(count).toBe(0);
  });
});
