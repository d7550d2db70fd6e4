import { afterEach, describe, expect, it } from 'vitest';
import { RootFinder, type FoundRoot } from '../../../src/agent/cluster/root-finder.ts';
import { peerIdOf } from '../../../src/net/node/identity.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import type { PeerId } from '../../../src/util/peer-id.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { identity } from '../../kit/identity.ts';

const [R1, R2, LIAR] = [1, 2, 3].map((number) => peerIdOf(identity(number))) as [
  PeerId,
  PeerId,
  PeerId,
];
const A1 = '/ip4/10.0.0.1/tcp/1';
const A2 = '/ip4/10.0.0.2/tcp/1';
const CERTIFICATE = new Uint8Array(64);

const finders: RootFinder[] = [];
afterEach(() => {
  for (const finder of finders.splice(0)) finder.stop();
});

/** A finder, who answers at which address, and whom the authority has certified. */
function finderOf(init: {
  entries: readonly string[];
  certified?: readonly PeerId[];
  untrusted?: readonly PeerId[];
}): {
  clock: ManualClock;
  answers: Map<string, PeerId>;
  asked: string[];
  found: () => string[];
  lines: string[];
  finder: RootFinder;
  settle: () => Promise<void>;
} {
  const clock = new ManualClock();
  const answers = new Map<string, PeerId>();
  const asked: string[] = [];
  const lines: string[] = [];
  let last: readonly FoundRoot[] = [];
  const { certified, untrusted = [] } = init;
  const finder = new RootFinder(
    {
      clock,
      logger: {
        ...silentLogger,
        warn: (fields, text) => void lines.push(`${text} ${JSON.stringify(fields)}`),
      },
      transport: {
        identify: async (address) => {
          asked.push(address);
          const peer = answers.get(address);
          if (peer === undefined) throw new Error('nobody there');
          return Promise.resolve(peer);
        },
        certificateOf: () => CERTIFICATE,
      },
    },
    {
      entries: init.entries,
      self: undefined,
      trust: {
        isCertified: (peer) => certified?.includes(peer),
        isUntrusted: (peer) => untrusted.includes(peer),
      },
      onChange: (roots) => {
        last = roots;
      },
    },
  );
  finders.push(finder);
  return {
    clock,
    answers,
    asked,
    lines,
    finder,
    found: () => last.map(({ peer, basis }) => `${basis} ${peer}`).sort(),
    settle: () => new Promise((resolve) => setImmediate(resolve)),
  };
}

describe('RootFinder', () => {
  it('RootFinder asks a silent root after 1, 2, 4 ... 30 s while it knows another', async () => {
    const { clock, answers, asked, finder, found, settle } = finderOf({ entries: [A1, A2] });
    answers.set(A1, R1);
    await finder.start();
    expect(found()).toEqual([`address ${R1}`]);
    const atMs: number[] = [];
    for (let nowMs = 0; nowMs < 100_000; nowMs += 500) {
      const before = asked.length;
      clock.advance(500);
      await settle();
      if (asked.length > before) atMs.push(nowMs + 500);
    }
    expect(atMs).toEqual([1_000, 3_000, 7_000, 15_000, 31_000, 61_000, 91_000]);
    answers.set(A2, R2);
    clock.advance(30_000);
    await settle();
    expect(found()).toEqual([`address ${R1}`, `address ${R2}`].sort());
    // All are there: the next one that goes away is looked for soon again.
    answers.delete(A2);
    clock.advance(30_000);
    await settle();
    const before = asked.length;
    clock.advance(1_000);
    await settle();
    expect(asked.length).toBeGreaterThan(before);
  });

  it('RootFinder takes nobody without a certificate where there is an authority', async () => {
    const { answers, finder, found, lines } = finderOf({ entries: [A1, A2], certified: [R1] });
    answers.set(A1, R1);
    answers.set(A2, LIAR);
    await finder.start();
    expect(found()).toEqual([`certificate ${R1}`]);
    expect(lines.join()).toContain('shows no certificate of cluster.rootsAuthority');
  });

  it('RootFinder forgets a root when a host without a certificate answers there', async () => {
    const { clock, answers, finder, found, settle } = finderOf({
      entries: [A1, A2],
      certified: [R1, R2],
    });
    answers.set(A1, R1);
    answers.set(A2, R2);
    await finder.start();
    answers.set(A2, LIAR);
    clock.advance(30_000);
    await settle();
    expect(found()).toEqual([`certificate ${R1}`]);
  });

  it('RootFinder says once that roots are known by address alone, and what to write', async () => {
    const { clock, answers, finder, lines, settle } = finderOf({ entries: [A1, A2] });
    answers.set(A1, R1);
    answers.set(A2, R2);
    await finder.start();
    clock.advance(30_000);
    await settle();
    expect(lines).toHaveLength(1);
    expect(lines[0]).toContain(`${A1}/p2p/${R1}`);
    expect(lines[0]).toContain('cluster.rootsAuthority');
  });

  it('RootFinder takes the id of the configuration for better than what it finds', async () => {
    const { answers, finder, found, lines } = finderOf({ entries: [`${A1}/p2p/${R1}`, A2] });
    answers.set(A2, R1);
    await finder.start();
    expect(found()).toEqual([`id ${R1}`]);
    expect(lines.length).toBeLessThanOrEqual(1);
  });

  it('RootFinder leaves out roots that are trusted no more, however they are named', async () => {
    const { answers, finder, found } = finderOf({
      entries: [`${A1}/p2p/${R1}`, A2],
      untrusted: [R1],
    });
    answers.set(A2, R2);
    await finder.start();
    expect(found()).toEqual([`address ${R2}`]);
  });
});
