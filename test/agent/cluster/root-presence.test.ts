import { describe, expect, it } from 'vitest';
import { RootPresence } from '../../../src/agent/cluster/root-presence.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { peerId, type PeerId } from '../../../src/util/peer-id.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

const ROOTS = [
  { peer: peerId('r1'), addresses: ['/ip4/10.0.0.1/tcp/1', '/ip4/10.0.0.2/tcp/1'] },
  { peer: peerId('r2'), addresses: ['/ip4/10.0.0.3/tcp/1'] },
];

describe('RootPresence', () => {
  it('keeps a connection to each root, over any of its addresses, until it stops', async () => {
    const clock = new ManualClock();
    const dialled: string[] = [];
    const connected = new Set<PeerId>();
    const random = { float: () => 0.5, below: () => 0, bytes: () => new Uint8Array() };
    const transport = {
      peers: () => [...connected],
      identify: async (address: string) => {
        dialled.push(address);
        if (address.includes('10.0.0.1/')) throw new Error('no route');
        const peer = peerId(address.split('/').at(-1) ?? '');
        connected.add(peer);
        return peer;
      },
    };
    const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
    const presence = new RootPresence({ transport, clock, random, logger: silentLogger });
    presence.setRoots(ROOTS);
    expect(dialled).toEqual([]);
    clock.advance(500);
    await settle();
    expect(dialled.sort()).toEqual([
      '/ip4/10.0.0.1/tcp/1/p2p/r1',
      '/ip4/10.0.0.2/tcp/1/p2p/r1',
      '/ip4/10.0.0.3/tcp/1/p2p/r2',
    ]);
    clock.advance(30_000);
    await settle();
    expect(dialled).toHaveLength(3);
    connected.delete(peerId('r2'));
    clock.advance(30_000);
    await settle();
    expect(dialled.slice(3)).toEqual(['/ip4/10.0.0.3/tcp/1/p2p/r2']);
    presence.stop();
    connected.clear();
    clock.advance(100_000);
    await settle();
    expect(dialled).toHaveLength(4);
  });
});
