import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { blockIndex } from '../../../src/image/block.ts';
import { peerId } from '../../../src/util/peer-id.ts';
import { DIGEST, SmallWorld, source, type SmallHost } from '../kit/small-world.ts';

/** root <- a <- b <- c, each knowing its ancestors. */
function chain(seed = 1): {
  world: SmallWorld;
  root: SmallHost;
  a: SmallHost;
  b: SmallHost;
  c: SmallHost;
} {
  const world = new SmallWorld(seed);
  const root = world.add('root', { owner: true });
  const a = world.add('a', { sources: [source('root', 'parent')] });
  const b = world.add('b', { sources: [source('a', 'parent'), source('root', 'root')] });
  const c = world.add('c', {
    sources: [source('b', 'parent'), source('a', 'ancestor'), source('root', 'root')],
  });
  return { world, root, a, b, c };
}

describe('BlockCore.read()', () => {
  it('brings a block down the tree and keeps it at every hop', () => {
    const { world, root, a, b, c } = chain();
    world.read(c, 'r', 3);
    world.run();
    expect(c.answers.get('r')).toEqual({ block: 'block 3', good: true, source: 'parent' });
    for (const host of [root, a, b, c]) expect([...host.store]).toEqual([3]);
    expect(world.originReads).toEqual([3]);
  });

  it('answers from memory the second time, and from disk when memory was cleared', () => {
    const { world, c } = chain();
    world.read(c, 'first', 3);
    world.run();
    world.read(c, 'second', 3);
    c.core.clearCache();
    world.read(c, 'third', 3);
    world.run();
    expect(c.answers.get('second')?.source).toBe('memory');
    expect(c.answers.get('third')?.source).toBe('disk');
    expect(c.asked).toHaveLength(1);
  });

  it('costs one request upward however many wait', () => {
    const { world, a, b, c } = chain();
    for (let i = 0; i < 50; i++) {
      world.read(a, `a${i}`, 7);
      world.read(b, `b${i}`, 7);
      world.read(c, `c${i}`, 7);
    }
    world.run();
    expect(world.originReads).toEqual([7]);
    expect(a.asked).toHaveLength(1);
    expect(b.asked).toHaveLength(1);
    expect(c.answers.size).toBe(50);
  });

  it.each(['not-found', 'refused', 'protocol'] as const)(
    'tells a client the no "%s" of the registry at once, and lets a device wait',
    (no) => {
      for (const where of ['root', 'c'] as const) {
        const { world, [where]: host } = chain();
        world.originFails = { code: no };
        world.read(host, 'client', 1, 30_000, true);
        world.read(host, 'device', 1);
        world.run(3_000);
        expect(host.failures.get('client')).toEqual({ code: 'origin', no });
        expect(host.failures.has('device')).toBe(false);
        world.originFails = undefined;
        world.run(10_000);
        expect(host.answers.get('device')?.good).toBe(true);
      }
    },
  );

  it('refuses what lies outside the blob', () => {
    const { world, c } = chain();
    world.read(c, 'r', 20);
    expect(c.failures.get('r')).toEqual({ code: 'range' });
  });

  it('goes to an ancestor when the parent dies', () => {
    const { world, b, c } = chain();
    world.read(c, 'r', 1);
    world.kill(b);
    world.run();
    expect(c.answers.get('r')?.good).toBe(true);
    expect(c.asked[1]).toMatch(/^a:1/);
    expect(c.lost).toEqual(['b:unreachable']);
  });

  it('goes elsewhere when the parent is silent, within the silence that is allowed', () => {
    const { world, b, c } = chain();
    world.read(c, 'first', 2);
    world.run(100);
    b.state = 'stopped';
    world.read(c, 'r', 1);
    world.run(500);
    expect(c.answers.get('r')?.good).toBe(true);
  });

  it('waits longer for the first word of a parent, which may still be connecting', () => {
    const { world, b, c } = chain();
    b.state = 'stopped';
    world.read(c, 'r', 1);
    world.run(400);
    expect(c.lost).toEqual([]);
    world.run(1100);
    expect(c.answers.get('r')?.good).toBe(true);
  });

  it('waits for a parent that is alive, without giving it up', () => {
    const { world, root, c } = chain();
    world.originFails = { code: 'unreachable' };
    world.read(c, 'r', 1);
    world.at(2000, () => {
      world.originFails = undefined;
    });
    world.run(10_000);
    expect(c.answers.get('r')?.good).toBe(true);
    expect(c.lost).toEqual([]);
    expect(root.fetched).toEqual(['origin:demand']);
  });

  it('takes no damaged block: the peer is banned and the read completed elsewhere', () => {
    const { world, b, c } = chain();
    b.corrupt = true;
    world.read(c, 'r', 1);
    world.read(c, 's', 2);
    world.run();
    expect(c.answers.get('r')).toMatchObject({ good: true });
    expect(c.answers.get('s')).toMatchObject({ good: true });
    expect(c.lost[0]).toBe('b:corrupt');
    world.read(c, 't', 4);
    world.run();
    expect(c.asked.at(-1)).toMatch(/^a:4/);
  });

  it('takes a block of a root that it does not know from another peer, and blames nobody', () => {
    const { world, b, c } = chain();
    b.strange = true;
    world.read(c, 'r', 1);
    world.run();
    expect(c.answers.get('r')).toMatchObject({ good: true });
    expect(c.lost).toEqual([]);
    expect(c.asked[0]).toMatch(/^b:1/);
    b.strange = false;
    world.read(c, 's', 2);
    world.run();
    expect(c.asked.at(-1)).toMatch(/^b:2/);
  });

  it('reads the registry itself when every peer has failed, and keeps that block to itself', () => {
    const { world, root, a, b, c } = chain();
    for (const host of [root, a, b]) world.kill(host);
    world.read(c, 'r', 1);
    world.run();
    expect(c.answers.get('r')).toMatchObject({ good: true, source: 'fallback' });
    expect([...c.store]).toEqual([]);
  });

  it('fails at its deadline when there is nothing to read from', () => {
    const { world, root, c } = chain();
    world.kill(root);
    world.originFails = { code: 'unreachable' };
    world.read(c, 'r', 1, 1000);
    world.run();
    expect(c.failures.get('r')).toMatchObject({ code: 'deadline' });
    expect(c.core.waitingCount).toBe(0);
  });

  it('asks holders before the registry at a new owner', () => {
    const world = new SmallWorld(1);
    const root = world.add('root', { owner: true, holders: ['h'] });
    const holder = world.add('h');
    holder.store.add(blockIndex(5));
    world.read(root, 'held', 5);
    world.read(root, 'missing', 6);
    world.run();
    expect(root.answers.get('held')).toMatchObject({ good: true, source: 'alternate' });
    expect(world.originReads).toEqual([6]);
  });

  it('asks a host that reads from it, when roots and registry are away', () => {
    const { world, root, a, b, c } = chain();
    for (const index of [1, 2]) world.read(c, `c${index}`, index);
    world.run();
    for (const host of [a, b]) {
      host.store.clear();
      host.core.clearCache();
    }
    world.originFails = { code: 'unreachable' };
    world.kill(root);
    world.kill(c);
    b.store.add(blockIndex(1));
    world.read(a, 'held', 1, 5_000);
    world.read(a, 'gone', 2, 5_000);
    world.run();
    expect(a.answers.get('held')).toMatchObject({ good: true, source: 'alternate' });
    expect(a.failures.get('gone')).toMatchObject({ code: 'deadline' });
  });

  it('asks a host that it knew as a reader alone where its place says later', () => {
    const world = new SmallWorld(1);
    world.originFails = { code: 'unreachable' };
    const sources = [source('gone', 'parent')];
    const host = world.add('host', { sources });
    const reader = world.add('reader', { sources: [source('host', 'parent')] });
    world.read(reader, 'theirs', 1, 500);
    world.read(host, 'ours', 2, 500);
    world.run(1_000);
    expect(host.askedAt.get(peerId('reader'))).toEqual([]);
    sources.unshift({ role: 'parent', host: { peer: peerId('reader'), addresses: ['/ip4/1'] } });
    reader.store.add(blockIndex(3));
    world.read(host, 'later', 3);
    world.run(10_000);
    expect(host.answers.get('later')).toMatchObject({ good: true, source: 'parent' });
    expect(host.askedAt.get(peerId('reader'))).toEqual(['/ip4/1']);
  });

  it('asks the hosts of its former places for what they hold, before the registry', () => {
    const world = new SmallWorld(1);
    const names = ['k0', 'k1', 'k2', 'k3'];
    const kin = names.map((name) => world.add(name, { sources: [source('root', 'parent')] }));
    const head = world.add('head', { sources: [source('root', 'parent')], kin: names });
    const root = world.add('root', { owner: true });
    world.kill(root);
    kin[3]?.store.add(blockIndex(4));
    if (kin[0] !== undefined) kin[0].mute = true;
    if (kin[1] !== undefined) kin[1].liar = true;
    world.read(head, 'r', 4);
    world.run();
    expect(head.answers.get('r')).toMatchObject({ good: true, source: 'alternate' });
    expect(world.originReads).toEqual([]);
    for (const host of kin) expect(host.asked).toEqual([]);
  });

  it('does not ask beyond its sources while one of them gives the block', () => {
    const world = new SmallWorld(1);
    world.add('root', { owner: true });
    world.add('k');
    const head = world.add('head', { sources: [source('root', 'parent')], kin: ['k'] });
    for (let index = 0; index < 20; index++) world.read(head, `r${index}`, index);
    world.run();
    expect(head.answers.size).toBe(20);
    expect(head.asked.filter((each) => each.startsWith('k:'))).toEqual([]);
  });

  it('does not hang in a circle of hosts that wait for each other', () => {
    const world = new SmallWorld(3);
    const ring = ['x', 'y', 'z'];
    world.add('root', { owner: true });
    const hosts = ring.map((name, i) =>
      world.add(name, {
        sources: [source(ring[(i + 1) % 3] ?? '', 'parent'), source('root', 'root')],
      }),
    );
    for (const host of hosts) world.read(host, 'r', 1);
    world.run(1000);
    for (const host of hosts) expect(host.answers.get('r')?.good).toBe(true);
    expect(world.originReads).toEqual([1]);
  });

  it('overtakes prefetches: a demand read promotes the fetch in flight', () => {
    const { world, b, c } = chain();
    b.mute = true;
    c.core.order({ digest: DIGEST, indices: [blockIndex(1)] }, 0);
    world.drain(c);
    world.read(c, 'r', 1);
    expect(c.asked).toEqual(['b:1:prefetch']);
    world.run(5000);
    expect(c.answers.get('r')?.good).toBe(true);
  });
});

describe('BlockCore.order()', () => {
  it('prefetches in the given order, no more than the bound at a time', () => {
    const world = new SmallWorld(1);
    world.add('root', { owner: true });
    const a = world.add('a', { sources: [source('root', 'parent')], init: { prefetchMax: 2 } });
    a.core.order({ digest: DIGEST, indices: [4, 2, 9].map(blockIndex) }, 0);
    world.drain(a);
    expect(a.asked).toEqual(['root:4:prefetch', 'root:2:prefetch']);
    world.run();
    expect([...a.store].sort()).toEqual([2, 4, 9]);
  });

  it('takes few blocks by the word of one host, and others once a second one touched them', () => {
    const world = new SmallWorld(1);
    const init = { orderOfOnePeerMax: 2 };
    const root = world.add('root', { owner: true, init });
    const greedy = world.add('greedy', { sources: [source('root', 'parent')] });
    const b = world.add('b', { sources: [source('root', 'parent')], init: { prefetchMax: 0 } });
    for (let i = 0; i < 10; i++) world.read(greedy, `g${i}`, i);
    world.run();
    expect(root.ordered).toHaveLength(2);
    const [second = 0, third = 0] = [...greedy.store].filter((i) => !root.ordered.includes(i));
    world.read(b, 'b', second);
    world.read(root, 'r', third);
    world.run();
    expect(root.ordered.slice(2).toSorted()).toEqual([second, third].toSorted());
  });

  it('is learned by the owner and told down the tree', () => {
    const { world, root, a, b, c } = chain();
    world.read(c, 'r', 8);
    world.run();
    world.read(a, 's', 2);
    world.run();
    expect(root.ordered).toEqual([8, 2]);
    expect([...b.store]).toContain(2);
    expect([...c.store]).toContain(2);
  });
});

describe('BlockCore.readForPeer()', () => {
  it('sheds load beyond its bound with a time to come back', () => {
    const world = new SmallWorld(1);
    const root = world.add('root', { owner: true, init: { peerWaitersMax: 2 } });
    const a = world.add('a', { sources: [source('root', 'parent')] });
    for (let i = 0; i < 10; i++) world.read(a, `r${i}`, i);
    world.run();
    expect(a.answers.size).toBe(10);
    expect(a.lost).toEqual([]);
    expect(root.core.waitingCount).toBe(0);
    expect(world.originReads).toHaveLength(10);
  });

  it('refuses a blob that it does not know', () => {
    const world = new SmallWorld(1);
    const root = world.add('root', { owner: true });
    const other = `sha256:${'cd'.repeat(32)}` as typeof DIGEST;
    root.core.readForPeer(
      { name: 't' },
      peerId('a'),
      { digest: other, index: blockIndex(0), kind: 'demand', hops: 3, timeoutMs: 10 },
      0,
    );
    expect(root.core.take()).toMatchObject([{ type: 'refuse', detail: { code: 'unknown-blob' } }]);
  });
});

describe('BlockCore under limits', () => {
  const MIB = 2 ** 20;
  /** Times at which blocks reach the host, by index. */
  function arrivals(world: SmallWorld, host: SmallHost, untilMs = 60_000): Map<number, number> {
    const times = new Map<number, number>();
    for (let nowMs = 0; nowMs < untilMs && times.size < 20; nowMs += 5) {
      world.run(nowMs);
      for (const index of host.store) if (!times.has(index)) times.set(index, nowMs);
    }
    return times;
  }

  it.each([
    ['upload', { uploadBytesPerSecond: MIB }, {}],
    ['download', {}, { downloadBytesPerSecond: MIB }],
    ['upload and download', { uploadBytesPerSecond: MIB }, { downloadBytesPerSecond: MIB }],
  ])('moves no more than the %s limit, and all of it', (_name, rootInit, childInit) => {
    const world = new SmallWorld(1);
    const root = world.add('root', { owner: true, init: rootInit });
    const a = world.add('a', { sources: [source('root', 'parent')], init: childInit });
    for (let i = 0; i < 20; i++) world.read(a, `r${i}`, i);
    const times = [...arrivals(world, a).values()].sort((x, y) => x - y);
    // Four blocks at once, then four a second.
    expect(times.length).toBe(20);
    for (const [i, atMs] of times.entries()) expect(atMs).toBeGreaterThanOrEqual((i - 3) * 250);
    expect(times.at(-1)).toBeLessThan(6_500);
    expect(a.failures.size).toBe(0);
    expect(a.lost).toEqual([]);
    const { upload } = root.core.heldMs;
    const { download } = a.core.heldMs;
    expect(upload > 3_000 || download > 3_000).toBe(true);
  });

  it.each([
    ['upload', { uploadBytesPerSecond: MIB }, {}],
    ['download', {}, { downloadBytesPerSecond: MIB }],
  ])(
    'lets a demand read overtake the prefetches that the %s limit holds back',
    (_name, up, down) => {
      const world = new SmallWorld(1);
      world.add('root', { owner: true, init: up });
      const a = world.add('a', { sources: [source('root', 'parent')], init: down });
      a.core.order(
        { digest: DIGEST, indices: Array.from({ length: 16 }, (_, i) => blockIndex(i)) },
        0,
      );
      world.drain(a);
      world.run(20);
      world.read(a, 'new', 19);
      world.read(a, 'held back', 15);
      world.run(1_500);
      expect(a.answers.size).toBe(2);
      expect(a.store.size).toBeLessThan(16);
      world.run();
      expect(a.store.size).toBe(17);
    },
  );

  it('sends peers elsewhere while more waits to be sent than a second of the upload limit', () => {
    const world = new SmallWorld(1);
    const root = world.add('root', { owner: true });
    const slow = world.add('slow', {
      sources: [source('root', 'parent')],
      init: { uploadBytesPerSecond: MIB },
    });
    const a = world.add('a', { sources: [source('slow', 'parent'), source('root', 'root')] });
    for (let i = 0; i < 20; i++) world.read(a, `r${i}`, i);
    world.run(3_000);
    expect(a.answers.size).toBe(20);
    expect(a.lost).toEqual([]);
    expect(a.asked.some((each) => each.startsWith('root:'))).toBe(true);
    world.run();
    for (const host of [root, slow, a]) expect(host.core.waitingCount).toBe(0);
  });
});

describe('BlockCore under random faults', () => {
  it('ends every read once with the right bytes, and holds no payload too many', () => {
    fc.assert(
      fc.property(
        fc.integer(),
        fc.constantFrom(
          {},
          { uploadBytesPerSecond: 4 * 2 ** 20 },
          { uploadBytesPerSecond: 4 * 2 ** 20, downloadBytesPerSecond: 8 * 2 ** 20 },
        ),
        fc.array(
          fc.record({
            atMs: fc.integer({ min: 0, max: 3000 }),
            what: fc.constantFrom(
              'read',
              'read',
              'read',
              'read',
              'kill',
              'stop',
              'cont',
              'corrupt',
              'origin',
              'heal',
            ),
            host: fc.integer({ min: 0, max: 6 }),
            block: fc.integer({ min: 0, max: 19 }),
          }),
          { maxLength: 60 },
        ),
        (seed, limits, schedule) => {
          const world = new SmallWorld(seed);
          const names = ['h0', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6'];
          world.add('root', { owner: true, init: { cacheBytesMax: 2 ** 20 } });
          const hosts = names.map((name, i) =>
            world.add(name, {
              init: { cacheBytesMax: 2 ** 20, prefetchMax: i % 3, ...limits },
              sources: [
                source(i < 2 ? 'root' : (names[(i >> 1) - 1] ?? ''), 'parent'),
                source(names[(i + 3) % 7] ?? '', 'alternate'),
                source('root', 'root'),
              ],
            }),
          );
          let reads = 0;
          for (const step of schedule) {
            world.at(step.atMs, () => {
              const host = hosts[step.host];
              if (host === undefined) return;
              if (step.what === 'read' && host.state === 'up') {
                world.read(host, `r${reads++}`, step.block);
              }
              if (step.what === 'kill' && step.host < 3) world.kill(host);
              if (step.what === 'stop' && host.state === 'up') host.state = 'stopped';
              if (step.what === 'cont' && host.state === 'stopped') host.state = 'up';
              if (step.what === 'corrupt') host.corrupt = true;
              if (step.what === 'origin') world.originFails = { code: 'unreachable' };
              if (step.what === 'heal') world.originFails = undefined;
            });
          }
          world.at(5000, () => {
            world.originFails = undefined;
            for (const host of hosts) if (host.state === 'stopped') host.state = 'up';
          });
          world.run(120_000);
          for (const host of hosts) {
            if (host.state === 'dead') continue;
            expect([...host.failures.values()]).toEqual([]);
            expect([...host.answers.values()].every((answer) => answer.good)).toBe(true);
            expect(host.core.waitingCount).toBe(0);
            host.core.clearCache();
          }
        },
      ),
      { numRuns: 150 },
    );
  });
});

describe('BlockCore of a blob that only its own clients have a way to', () => {
  function alone(setup: Parameters<SmallWorld['add']>[1] = { sources: [source('root', 'root')] }): {
    world: SmallWorld;
    root: SmallHost;
    own: SmallHost;
    child: SmallHost;
  } {
    const world = new SmallWorld(1);
    const root = world.add('root', { owner: true });
    const own = world.add('own', setup);
    const child = world.add('child', { sources: [source('own', 'parent')] });
    const ref = own.core.blob(DIGEST);
    if (ref === undefined) throw new Error('the small world has one blob');
    own.core.hold(ref, true);
    return { world, root, own, child };
  }

  it.each([{}, { owner: true, holders: ['root'] }])(
    'asks no peer and waits for none, whatever its host is: %o',
    (setup) => {
      const { world, own } = alone({ sources: [source('root', 'root')], ...setup });
      for (let i = 0; i < 20; i += 4) world.read(own, `r${i}`, i);
      world.run(50);
      expect(own.answers.size).toBe(5);
      expect(own.asked).toEqual([]);
      expect(own.fetched).toEqual(Array(5).fill('own-way:demand'));
    },
  );

  it('keeps what it reads, in memory and in the store, and reads it once', () => {
    const { world, own } = alone();
    world.read(own, 'first', 3);
    world.run();
    world.read(own, 'second', 3);
    own.core.clearCache();
    world.read(own, 'third', 3);
    world.run();
    expect(own.answers.get('second')?.source).toBe('memory');
    expect(own.answers.get('third')?.source).toBe('disk');
    expect(world.originReads).toEqual([3]);
  });

  it('gives no peer any of it, whether it is in memory, in the store or on its way', () => {
    const { world, own, child } = alone();
    world.read(own, 'held', 3);
    world.run(100);
    world.read(child, 'memory', 3, 300);
    world.run(400);
    own.core.clearCache();
    world.read(child, 'store', 3, 300);
    world.read(own, 'in flight', 4);
    world.read(child, 'coming', 4, 300);
    world.run(1_000);
    expect(child.asked.length).toBeGreaterThanOrEqual(3);
    expect(child.fetched.filter((each) => !each.startsWith('fallback'))).toEqual([]);
  });

  it('reads on ahead of a reader in order, and a demand read overtakes that', () => {
    const { world, own } = alone();
    for (let i = 0; i < 4; i++) world.read(own, `r${i}`, i);
    expect(world.originReads).toEqual([0, 1, 2, ...Array.from({ length: 17 }, (_, i) => 3 + i)]);
    world.read(own, 'promoted', 9);
    world.run();
    expect(own.answers.size).toBe(5);
    expect(own.fetched.filter((each) => each === 'own-way:demand')).toHaveLength(5);
    expect(own.fetched).toHaveLength(20);
  });

  it('reads on ahead of a reader that finds its blocks in memory', () => {
    const { world, own } = alone();
    for (const i of [3, 0, 1, 2]) world.read(own, `r${i}`, i);
    world.run(100);
    expect(world.originReads).toHaveLength(4);
    expect(own.core.isOwnWay(DIGEST)).toBe(true);
    own.core.touched(DIGEST, blockIndex(3), world.nowMs);
    world.drain(own);
    expect(world.originReads).toHaveLength(20);
  });
});

describe('BlockCore without roots and registry', () => {
  it('gets what any kin holds, in no circle of waiting hosts', () => {
    const hostIndex = fc.integer({ min: 0, max: 5 });
    fc.assert(
      fc.property(
        fc.integer(),
        fc.array(fc.array(hostIndex, { maxLength: 5 }), { minLength: 6, maxLength: 6 }),
        fc.array(fc.record({ host: hostIndex, block: hostIndex }), { maxLength: 12 }),
        fc.array(
          fc.record({ host: hostIndex, block: hostIndex, atMs: fc.integer({ min: 0, max: 600 }) }),
          { maxLength: 24 },
        ),
        (seed, knows, holds, reads) => {
          const world = new SmallWorld(seed);
          world.originFails = { code: 'unreachable' };
          const nameOf = (index: number): string => `h${index}`;
          const hosts = knows.map((others, i) =>
            world.add(nameOf(i), {
              sources: [
                source(i % 2 === 0 ? 'root' : nameOf(i - 1), 'parent'),
                source('root', 'root'),
              ],
              kin: others.filter((other) => other !== i).map(nameOf),
            }),
          );
          for (const { host, block } of holds) hosts[host]?.store.add(blockIndex(block));
          for (const [at, { host, block, atMs }] of reads.entries()) {
            const reader = hosts[host] as SmallHost;
            world.at(atMs, () => world.read(reader, `${at}`, block, 5_000));
          }
          world.run(20_000);
          for (const [at, { host, block }] of reads.entries()) {
            const reader = hosts[host] as SmallHost;
            const near = [...(knows[host] ?? []), host];
            const isNear = holds.some((held) => near.includes(held.host) && held.block === block);
            const answer = reader.answers.get(`${at}`);
            if (isNear) expect(answer, `read ${at}`).toMatchObject({ good: true });
            else expect(answer !== undefined || reader.failures.has(`${at}`)).toBe(true);
          }
          for (const host of hosts) expect(host.core.waitingCount).toBe(0);
        },
      ),
      { numRuns: 200 },
    );
  });
});
