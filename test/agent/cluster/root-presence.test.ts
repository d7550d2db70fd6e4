import { describe, expect, it } from 'vitest';
import { RootPresence } from '../../../src/agent/cluster/root-presence.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { PeerError } from '../../../src/transfer/contracts/transport.ts';
import type { HostCard } from '../../../src/tree/messages.ts';
import type { PresenceReply } from '../../../src/tree/presence.ts';
import { peerId, type PeerId } from '../../../src/util/peer-id.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

const ROOTS = [
  { peer: peerId('r1'), addresses: ['/ip4/10.0.0.1/tcp/1', '/ip4/10.0.0.2/tcp/1'] },
  { peer: peerId('r2'), addresses: ['/ip4/10.0.0.3/tcp/1'] },
];
const WELL: PresenceReply = { reach: 'reached', tried: '', twin: '', strangers: [], names: [] };

const settle = async (): Promise<void> => {
  for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
};

function host() {
  const clock = new ManualClock();
  const dialled: string[] = [];
  const connected = new Set<PeerId>();
  const joins: HostCard[] = [];
  const state = { reply: WELL, silent: new Set<PeerId>(), changed: false };
  const random = { float: () => 0.5, below: () => 0, bytes: () => new Uint8Array(16) };
  const transport = {
    peers: () => [...connected],
    identify: async (address: string) => {
      dialled.push(address);
      if (address.includes('10.0.0.1/')) throw new Error('no route');
      const peer = peerId(address.split('/').at(-1) ?? '');
      connected.add(peer);
      return peer;
    },
    call: (async ({ peer }: { peer: PeerId }, name: string, request: { host: HostCard }) => {
      if (state.silent.has(peer)) throw new PeerError('no word', { code: 'timeout' });
      if (name === 'join') joins.push(request.host);
      return name === 'join' ? { places: [], orders: [] } : state.reply;
    }) as never,
  };
  const card = { peer: peerId('me'), addresses: ['/ip4/10.0.0.7/tcp/1'], zone: 'z', capacity: 5 };
  const presence = new RootPresence(
    { transport, clock, random, logger: silentLogger, metrics: silentMetrics },
    {
      card,
      name: 'me',
      capacity: 5,
      refresh: () => {
        const { changed } = state;
        state.changed = false;
        return Promise.resolve(changed);
      },
      neighbours: () => [],
      onChange: () => {},
    },
  );
  const pass = async (ms: number): Promise<void> => {
    for (let passed = 0; passed < ms; passed += 500) {
      clock.advance(500);
      await settle();
    }
  };
  return { presence, clock, dialled, connected, joins, state, card, pass };
}

describe('RootPresence', () => {
  it('keeps a connection to each root, over any of its addresses, until it stops', async () => {
    const { presence, dialled, connected, pass } = host();
    presence.setRoots(ROOTS);
    expect(dialled).toEqual([]);
    await pass(500);
    expect(dialled.sort()).toEqual([
      '/ip4/10.0.0.1/tcp/1/p2p/r1',
      '/ip4/10.0.0.2/tcp/1/p2p/r1',
      '/ip4/10.0.0.3/tcp/1/p2p/r2',
    ]);
    await pass(30_000);
    expect(dialled).toHaveLength(3);
    connected.delete(peerId('r2'));
    await pass(1_000);
    expect(dialled.slice(3)).toEqual(['/ip4/10.0.0.3/tcp/1/p2p/r2']);
    presence.stop();
    connected.clear();
    await pass(5_000);
    expect(dialled).toHaveLength(4);
  });

  it('is served while a root answers, and says why not when the last is gone', async () => {
    const { presence, state, pass } = host();
    presence.setRoots(ROOTS);
    expect(presence.notServed()).toContain('it was not asked yet');
    await pass(500);
    expect(presence.notServed()).toBeUndefined();
    state.silent.add(peerId('r1'));
    await pass(50_000);
    expect(presence.notServed()).toBeUndefined();
    state.silent.add(peerId('r2'));
    await pass(50_000);
    expect(presence.notServed()).toContain('/ip4/10.0.0.3/tcp/1: no word');
    state.silent.clear();
    await pass(5_000);
    expect(presence.notServed()).toBeUndefined();
    presence.stop();
  });

  it('says when all roots are away: one that was silent until it answers again', async () => {
    const { presence, state, connected, pass } = host();
    presence.setRoots(ROOTS);
    expect(presence.areAllAway).toBe(false);
    await pass(500);
    presence.silent(peerId('r1'));
    presence.silent(peerId('no root'));
    expect(presence.areAllAway).toBe(false);
    presence.silent(peerId('r2'));
    expect(presence.areAllAway).toBe(true);
    connected.clear();
    expect(presence.roots().map(({ reason }) => reason)).toEqual(
      Array(2).fill('the connection broke'),
    );
    await pass(1_000);
    expect(presence.areAllAway).toBe(false);
    state.silent = new Set(ROOTS.map(({ peer }) => peer));
    await pass(50_000);
    expect(presence.areAllAway).toBe(true);
    state.silent.clear();
    await pass(5_000);
    expect(presence.areAllAway).toBe(false);
    presence.stop();
  });

  it('takes no children while others cannot reach it, and tells its new addresses', async () => {
    const { presence, state, card, joins, pass } = host();
    state.reply = { ...WELL, reach: 'not-reached', tried: '/ip4/10.0.0.7/tcp/1: timeout' };
    presence.setRoots(ROOTS);
    await pass(500);
    expect(card.capacity).toBe(0);
    expect(joins.map(({ capacity }) => capacity)).toEqual([0, 0]);
    expect(presence.notReached()).toContain('others cannot reach this host (/ip4/10.0.0.7/tcp/1');
    state.reply = WELL;
    await pass(8_000);
    expect(card.capacity).toBe(5);
    expect(presence.notReached()).toBeUndefined();
    joins.length = 0;
    card.addresses = ['/ip4/10.0.0.8/tcp/1'];
    state.changed = true;
    await pass(1_500);
    expect(joins.map(({ addresses }) => addresses[0])).toEqual(Array(2).fill(card.addresses[0]));
    presence.stop();
  });
});
