import { describe, expect, it } from 'vitest';
import { blockIndex, BLOCK_SIZE_BYTES } from '../../../src/image/block.ts';
import { DIGEST, SmallWorld, source, type SmallHost } from '../kit/small-world.ts';

const COUNT = 20;

/** The store may owe four blocks, and takes a second for each; four are in flight at a peer. */
const [OWED_MAX, IN_FLIGHT] = [4, 4];
const INIT = {
  prefetchMax: 64,
  peerPrefetchMax: IN_FLIGHT,
  storeBytesMax: OWED_MAX * BLOCK_SIZE_BYTES,
};
const DISK_MS = 1_000;

/** A child of a root, with a slow disk, that is to prefetch all blocks of a blob. */
function withSlowDisk(): { world: SmallWorld; child: SmallHost } {
  const world = new SmallWorld(1);
  world.add('root', { owner: true });
  const child = world.add('a', { sources: [source('root', 'parent')], init: INIT });
  child.diskMs = DISK_MS;
  const indices = Array.from({ length: COUNT }, (_, i) => blockIndex(i));
  child.core.order({ digest: DIGEST, indices }, 0);
  world.drain(child);
  return { world, child };
}

/** Blocks that went to the store and are not there yet. */
function owed(child: SmallHost): number {
  return child.written.length - child.store.size;
}

describe('StoreRoom', () => {
  it('has prefetches wait for the store, which gets all of them', () => {
    const { world, child } = withSlowDisk();
    // Those in flight before the store owed anything come at once.
    for (let ms = 0; ms < COUNT * DISK_MS; ms += DISK_MS / 10) {
      world.run(ms);
      expect(owed(child)).toBeLessThanOrEqual(OWED_MAX + IN_FLIGHT);
    }
    expect(child.store.size).toBe(COUNT);
    expect(child.asked).toHaveLength(COUNT);
  });

  it('lets demand reads go at once, also of blocks whose prefetch waits', () => {
    const { world, child } = withSlowDisk();
    world.run(DISK_MS / 2);
    const before = child.written.length;
    for (const index of [18, 19]) world.read(child, `wanted ${index}`, index);
    world.run(DISK_MS / 2 + 20);
    expect([...child.answers.keys()].sort()).toEqual(['wanted 18', 'wanted 19']);
    expect(child.written.slice(before).toSorted()).toEqual(['18:demand', '19:demand']);
  });

  it('has a root read the registry for its children as its own store takes the blocks', () => {
    const world = new SmallWorld(1);
    const root = world.add('root', { owner: true, init: INIT });
    root.diskMs = DISK_MS;
    const init = { prefetchMax: 64, prefetchMsMax: 60_000 };
    const child = world.add('a', { sources: [source('root', 'parent')], init });
    const indices = Array.from({ length: COUNT }, (_, i) => blockIndex(i));
    child.core.order({ digest: DIGEST, indices }, 0);
    world.drain(child);
    world.run(DISK_MS / 2);
    const first = world.originReads.length;
    expect(first).toBeLessThan(COUNT);
    world.run(COUNT * DISK_MS);
    expect(world.originReads).toHaveLength(COUNT);
    expect(root.store.size).toBe(COUNT);
    expect(child.store.size).toBe(COUNT);
  });
});
