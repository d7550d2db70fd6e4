import { describe, expect, it } from 'vitest';
import { blockIndex, BLOCK_SIZE_BYTES } from '../../../src/image/block.ts';
import { Standstill } from '../../../src/transfer/core/fallback.ts';
import { SmallWorld, source, type SmallHost } from '../kit/small-world.ts';

const SOURCES = [source('a', 'parent'), source('root', 'root')];

/** root <- a <- c; `c` may read two blocks from the registry itself while a root is reached. */
function chain(share = 0): { world: SmallWorld; root: SmallHost; a: SmallHost; c: SmallHost } {
  const world = new SmallWorld(1);
  const root = world.add('root', { owner: true });
  const a = world.add('a', { sources: [source('root', 'parent')] });
  const init = { fallbackBytesMin: 2 * BLOCK_SIZE_BYTES, fallbackShare: share };
  const c = world.add('c', { sources: SOURCES, init });
  return { world, root, a, c };
}

function fallbacks(host: SmallHost): number {
  return host.fetched.filter((each) => each === 'fallback:demand').length;
}

describe('BlockCore of a host that owns nothing', () => {
  it('waits for a root that says that it works on the block, for 60 % of its time', () => {
    const { world, root, c } = chain();
    root.liar = true;
    for (let i = 0; i < 10; i++) world.read(c, `r${i}`, i, 10_000);
    world.run(5_900);
    expect(world.originReads).toEqual([]);
    world.run(8_000);
    expect(c.answers.size).toBe(10);
    expect(fallbacks(c)).toBe(10);
  });

  it('reads late blocks one at a time', () => {
    const { world, root, c } = chain();
    root.liar = true;
    world.originFails = { code: 'unreachable' };
    let most = 0;
    for (let i = 0; i < 10; i++) world.read(c, `r${i}`, i, 10_000);
    for (let ms = 5_990; ms < 6_050; ms++) {
      const before = world.originReads.length;
      world.run(ms);
      most = Math.max(most, world.originReads.length - before);
    }
    // An answer takes 3 ms.
    expect(most).toBe(1);
    expect(world.originReads.length).toBeGreaterThan(5);
  });

  it('goes to the registry within a second when no root is left, without a budget', () => {
    const { world, root, a, c } = chain();
    world.kill(root);
    world.kill(a);
    for (let i = 0; i < 10; i++) world.read(c, `r${i}`, i);
    world.run(2_000);
    expect(fallbacks(c)).toBe(10);
  });

  it('goes to the registry when the roots have no way to the blob, without a budget', () => {
    const { world, root, c } = chain();
    world.originFails = { code: 'not-found' };
    for (let i = 0; i < 10; i++) world.read(c, `r${i}`, i);
    // The roots' way alone fails.
    world.at(100, () => {
      world.originFails = undefined;
      root.mute = true;
    });
    world.run(20_000);
    expect(c.answers.size).toBe(10);
  });

  it('does not hold against its peers that it stood still itself', () => {
    const { world, a, c } = chain();
    world.read(c, 'first', 0);
    world.run(1_000);
    world.read(c, 'r', 1);
    // It hears nothing for three seconds, and then all at once.
    c.state = 'stopped';
    world.at(3_000, () => {
      c.state = 'up';
    });
    world.run(6_000);
    expect(c.answers.get('r')?.source).toBe('parent');
    expect(c.lost).toEqual([]);
    expect([...a.store]).toEqual([0, 1].map(blockIndex));
  });
});

describe('Standstill', () => {
  it('Standstill.mustWait() gives 20 ms to what was said meanwhile, and no more', () => {
    const standstill = new Standstill();
    expect(standstill.mustWait(100, 200)).toBe(false);
    expect(standstill.mustWait(100, 1000)).toBe(true);
    expect(standstill.nextMs(100)).toBe(1020);
    expect(standstill.mustWait(100, 1010)).toBe(true);
    expect(standstill.mustWait(100, 1020)).toBe(false);
  });
});
