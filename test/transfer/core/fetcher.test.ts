import { describe, expect, it } from 'vitest';
import { blockIndex, BLOCK_SIZE_BYTES } from '../../../src/image/block.ts';
import { SeededRandom } from '../../../src/sim/seeded-random.ts';
import { BlockCore } from '../../../src/transfer/core/core.ts';
import type { CoreInit } from '../../../src/transfer/core/core-types.ts';
import type { AttemptId, Effect } from '../../../src/transfer/core/effects.ts';
import { peerId } from '../../../src/util/peer-id.ts';
import { digestOf } from '../../tree/kit/messages.ts';
import { DIGEST, SmallWorld, source, type SmallHost } from '../kit/small-world.ts';

const NAMES = ['l0', 'l1', 'l2', 'l3', 'l4', 'l5', 'l6', 'l7'];

/** A new owner that eight hosts told that they hold everything. */
function withHolders(): { world: SmallWorld; root: SmallHost; holders: SmallHost[] } {
  const world = new SmallWorld(1);
  const holders = NAMES.map((name) => world.add(name));
  const root = world.add('root', { owner: true, holders: NAMES });
  return { world, root, holders };
}

/** Milliseconds until the root has the block. */
function timeOf(world: SmallWorld, root: SmallHost, index: number): number {
  const startMs = world.nowMs;
  world.read(root, `r${index}`, index);
  for (let ms = 1; !root.answers.has(`r${index}`) && ms < 30_000; ms++) world.run(startMs + ms);
  return world.nowMs - startMs;
}

describe('BlockCore of a new owner', () => {
  it.each(['liar', 'mute'] as const)(
    'loses at most 100 ms a read to eight holders that are %s',
    (how) => {
      const { world, root, holders } = withHolders();
      for (const holder of holders) holder[how] = true;
      for (let index = 0; index < 20; index++) {
        expect(timeOf(world, root, index)).toBeLessThanOrEqual(100);
        world.at(200, () => {});
        world.run(world.nowMs + 201);
      }
      expect(world.originReads).toHaveLength(20);
    },
  );

  it('takes nobody at its word any more who says that it has not got the block', () => {
    const { world, root } = withHolders();
    for (let index = 0; index < 8; index++) expect(timeOf(world, root, index)).toBeLessThan(20);
    expect(root.holders).toEqual([]);
    expect(root.asked).toHaveLength(8);
    expect(world.originReads).toHaveLength(8);
  });

  it('goes on asking holders that give what they hold', () => {
    const { world, root, holders } = withHolders();
    for (let index = 0; index < 20; index++) holders[0]?.store.add(blockIndex(index));
    for (let index = 0; index < 20; index++) timeOf(world, root, index);
    expect(world.originReads).toEqual([]);
    expect(root.holders).toEqual(NAMES);
  });

  it('asks holders while the registry fails, each for half a second at most', () => {
    const { world, root, holders } = withHolders();
    world.originFails = { code: 'unreachable' };
    for (const holder of holders.slice(0, 2)) holder.liar = true;
    holders[2]?.store.add(blockIndex(3));
    expect(timeOf(world, root, 3)).toBeLessThan(1500);
    expect(root.answers.get('r3')?.source).toBe('alternate');
  });
});

describe('BlockCore of a host that prefetches', () => {
  /** A child whose root answers nothing, and that is to prefetch `count` blocks. */
  function behindLiar(
    count: number,
    more: Partial<CoreInit> = {},
  ): { world: SmallWorld; root: SmallHost; child: SmallHost } {
    const world = new SmallWorld(1);
    const root = world.add('root', { owner: true });
    const init = { prefetchMax: 64, peerPrefetchMax: 8, ...more };
    const child = world.add('a', { sources: [source('root', 'parent')], init });
    root.liar = true;
    const indices = Array.from({ length: count }, (_, i) => blockIndex(i));
    child.core.order({ digest: DIGEST, indices }, 0);
    world.drain(child);
    return { world, root, child };
  }

  it('gives the places of late prefetches to others after a second', () => {
    const { world, root, child } = behindLiar(12);
    expect(child.asked).toHaveLength(8);
    world.run(900);
    root.liar = false;
    world.run(3_000);
    // The first eight were asked of the liar; the others did not have to wait for them.
    expect([...child.store].toSorted((x, y) => x - y)).toEqual([8, 9, 10, 11]);
    expect(child.lost).toEqual([]);
  });

  it('has a bounded number of prefetches in flight at a peer, however late they are', () => {
    const { world, child } = behindLiar(20, { peerLateMax: 4 });
    world.run(1_900);
    expect(child.asked).toHaveLength(8 + 4);
    expect(child.lost).toEqual([]);
  });

  it('asks a demand read at once while all prefetches are late', () => {
    const { world, root, child } = behindLiar(20, { peerLateMax: 4 });
    world.run(1_900);
    root.liar = false;
    world.read(child, 'wanted', 15);
    world.run(2_000);
    expect(child.answers.has('wanted')).toBe(true);
  });
});

describe('BlockCore of a root with several registries', () => {
  type Block = { readonly lengthBytes: number };
  const [SILENT, SOUND] = [digestOf(1), digestOf(2)];

  /** A root whose registry `silent` never answers, and `sound` after 5 ms. */
  function make(waitersMax = 4096) {
    const core = new BlockCore<Block, string>(
      {
        ops: { length: ({ lengthBytes }) => lengthBytes, retain: () => {}, release: () => {} },
        random: new SeededRandom('registries'),
        held: () => false,
        routes: {
          sources: () => [],
          isRoot: () => false,
          owns: () => true,
          keeps: () => true,
          holders: () => [],
          kin: () => [],
          depth: () => 0,
          sourceKey: (digest) => (digest === SILENT ? 'silent' : 'sound'),
        },
      },
      { waitersMax },
    );
    for (const digest of [SILENT, SOUND]) core.hold({ digest, sizeBytes: 4000 * BLOCK_SIZE_BYTES });
    const asked = { silent: 0, sound: 0 };
    const open: AttemptId[] = [];
    const cancelled: AttemptId[] = [];
    const times = new Map<string, number>();
    const refused: string[] = [];
    const pending: { readonly atMs: number; readonly run: (nowMs: number) => void }[] = [];
    let nowMs = 0;
    const carryOut = (effect: Effect<Block, string>): void => {
      if (effect.type === 'ask-origin') {
        const isSilent = effect.blob.digest === SILENT;
        asked[isSilent ? 'silent' : 'sound']++;
        open.push(effect.attempt);
        if (isSilent) return;
        const block = { lengthBytes: BLOCK_SIZE_BYTES };
        pending.push({ atMs: nowMs + 5, run: (at) => core.received(effect.attempt, block, at) });
      } else if (effect.type === 'cancel') cancelled.push(effect.attempt);
      else if (effect.type === 'verify') core.verified(effect.attempt, 'good', nowMs);
      else if (effect.type === 'answer') times.set(effect.token, nowMs);
      else if (effect.type === 'refuse' || effect.type === 'fail') refused.push(effect.token);
    };
    const drain = (): void => {
      for (let effects = core.take(); effects.length > 0; effects = core.take()) {
        for (const effect of effects) carryOut(effect);
      }
    };
    const runTo = (endMs: number): void => {
      drain();
      for (;;) {
        pending.sort((a, b) => a.atMs - b.atMs);
        const next = Math.min(pending[0]?.atMs ?? Infinity, core.nextWakeMs ?? Infinity);
        if (next > endMs) break;
        nowMs = Math.max(nowMs, next);
        if (pending[0]?.atMs === next) pending.shift()?.run(nowMs);
        else core.tick(nowMs);
        drain();
      }
      nowMs = endMs;
    };
    const read = (digest: typeof SILENT, index: number, peer?: string): void => {
      const block = { digest, index: blockIndex(index), kind: 'demand' } as const;
      const token = `${digest === SILENT ? 'silent' : 'sound'} ${index} ${peer ?? 'local'}`;
      if (peer === undefined) core.read({ ...block, token, timeoutMs: 30_000 }, nowMs);
      else {
        const request = { ...block, hops: 4, timeoutMs: 600_000 };
        core.readForPeer(token, peerId(peer), request, nowMs);
      }
    };
    const give = (attempt: AttemptId): void =>
      core.received(attempt, { lengthBytes: BLOCK_SIZE_BYTES }, nowMs);
    return { core, asked, times, refused, read, runTo, open, cancelled, give };
  }

  it('reads from the others as fast as before while 1,000 reads wait at a silent one', () => {
    const alone = make();
    for (let i = 0; i < 100; i++) alone.read(SOUND, i);
    alone.runTo(1000);
    const beside = make();
    for (let i = 0; i < 1000; i++) beside.read(SILENT, i);
    beside.runTo(1000);
    for (let i = 0; i < 8; i++) beside.read(SOUND, i);
    beside.runTo(1100);
    // The quarter that it has for itself: eight at a time.
    for (let i = 0; i < 8; i++) expect(beside.times.get(`sound ${i} local`)).toBe(1005);
    expect(beside.asked.silent).toBeLessThanOrEqual(32);
    for (let i = 8; i < 100; i++) beside.read(SOUND, i);
    beside.runTo(1100 + (5 * 100) / 8 + 5);
    expect(beside.times.size).toBe(alone.times.size);
  });

  it('leaves a read open that hangs, and asks for the block once more beside it', () => {
    const { read, runTo, open, cancelled, give, times } = make();
    read(SILENT, 0);
    runTo(29_000);
    expect(open).toHaveLength(2);
    expect(cancelled).toEqual([]);
    const [first = 0, second] = open;
    give(first);
    runTo(29_001);
    expect(times.get('silent 0 local')).toBe(29_000);
    expect(cancelled).toEqual([second]);
  });

  it('gives the places of reads that hang to others, and bounds how many hang', () => {
    const { core, read, runTo, open, cancelled, asked, times } = make();
    for (let i = 0; i < 200; i++) read(SILENT, i);
    runTo(25_000);
    expect(open.length - cancelled.length).toBeLessThanOrEqual(32 + 32);
    read(SOUND, 0);
    runTo(26_000);
    expect(times.get('sound 0 local')).toBe(25_005);
    expect(asked.silent).toBeGreaterThan(64);
    runTo(31_000);
    expect(core.waitingCount).toBe(0);
  });

  it('gives all reads to a registry that is alone', () => {
    const { asked, read, runTo } = make();
    for (let i = 0; i < 100; i++) read(SILENT, i);
    runTo(100);
    expect(asked.silent).toBe(32);
  });

  it('keeps room for its own reads when peers send ten-minute reads, which end at 30 s', () => {
    const { core, times, refused, read, runTo } = make(256);
    for (let i = 0; i < 400; i++) read(SILENT, i, `p${i % 20}`);
    runTo(10);
    expect(core.waitingCount).toBe(192);
    expect(refused).toHaveLength(208);
    for (let i = 0; i < 64; i++) read(SOUND, i);
    runTo(200);
    expect([...times.keys()].filter((token) => token.endsWith('local'))).toHaveLength(64);
    runTo(30_100);
    expect(core.waitingCount).toBe(0);
  });
});
