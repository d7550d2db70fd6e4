import { describe, expect, it, onTestFinished } from 'vitest';
import { RootFinder, type FoundRoot } from '../../../src/agent/cluster/root-finder.ts';
import { peerIdOf } from '../../../src/net/node/identity.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import type { PeerId } from '../../../src/util/peer-id.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { identity } from '../../kit/identity.ts';

const AT = (host: number): string => `/ip4/10.0.0.${host}/tcp/1`;
const [ONE, TWO] = [1, 2].map((number) => peerIdOf(identity(number))) as [PeerId, PeerId];

/** Runs every step of the finder that waits only for promises. */
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

async function find(entries: readonly string[], self?: FoundRoot) {
  const clock = new ManualClock();
  const answers = new Map<string, PeerId>();
  const found: (readonly [PeerId, ...string[]])[][] = [];
  const transport = {
    identify: async (address: string) => {
      const peer = answers.get(address);
      if (peer === undefined) throw new Error('nobody answers');
      return peer;
    },
  };
  const finder = new RootFinder(
    { transport, clock, logger: silentLogger },
    {
      entries,
      self,
      onChange: (roots) =>
        void found.push(roots.map(({ peer, addresses }) => [peer, ...addresses] as const)),
    },
  );
  onTestFinished(() => finder.stop());
  return { clock, answers, found, finder };
}

describe('RootFinder', () => {
  it('RootFinder.start() accepts roots with a peer id, and never searches again', async () => {
    const { clock, found, finder } = await find([`${AT(1)}/p2p/${ONE}`, `${AT(2)}/p2p/${ONE}`]);
    await finder.start();
    expect(found).toEqual([[[ONE, AT(1), AT(2)]]]);
    expect(clock.delays).toEqual([]);
  });

  it('RootFinder.start() leaves out an id that is no Ed25519 key', async () => {
    const { found, finder } = await find([`${AT(1)}/p2p/nonsense`, `${AT(2)}/p2p/${TWO}`]);
    await finder.start();
    expect(found).toEqual([[[TWO, AT(2)]]]);
  });

  it('RootFinder asks each second until a root answers, then each 30 s', async () => {
    const { clock, answers, found, finder } = await find([AT(1)]);
    await finder.start();
    expect([found, clock.delays]).toEqual([[], [1_000]]);
    answers.set(AT(1), ONE);
    clock.advance(1_000);
    await settle();
    expect([found, clock.delays]).toEqual([[[[ONE, AT(1)]]], [30_000]]);
    answers.clear();
    clock.advance(30_000);
    await settle();
    expect(found).toHaveLength(1);
    answers.set(AT(1), TWO);
    clock.advance(30_000);
    await settle();
    expect(found[1]).toEqual([[TWO, AT(1)]]);
  });

  it('RootFinder counts this host as a root, and does not ask its own address', async () => {
    const self = { peer: ONE, addresses: [AT(1)], publicKey: identity(1).publicKey };
    const { answers, found, finder } = await find([AT(1), AT(2)], self);
    answers.set(AT(2), TWO);
    await finder.start();
    expect(found[0]?.toSorted()).toEqual([[ONE, AT(1)] as const, [TWO, AT(2)] as const].toSorted());
  });

  it('RootFinder.stop() ends the search', async () => {
    const { clock, finder } = await find([AT(1)]);
    await finder.start();
    finder.stop();
    expect(clock.delays).toEqual([]);
  });
});
