import { describe, expect, it } from 'vitest';
import { BLOCK_SIZE_BYTES, blockIndex, type BlobRef } from '../../../src/image/block.ts';
import type { Digest } from '../../../src/image/digest.ts';
import { SeededRandom } from '../../../src/sim/seeded-random.ts';
import { HostCore, type HostCoreInit } from '../../../src/transfer/host/host-core.ts';
import { TreeError } from '../../../src/tree/errors.ts';
import type { JoinReply, WantedBlob } from '../../../src/tree/messages.ts';
import { peerId } from '../../../src/util/peer-id.ts';
import { card, digestOf, joinOf, ORIGIN } from '../../tree/kit/messages.ts';

interface Block {
  readonly lengthBytes: number;
}

const ROOT = card('root');
const SIZE = 3 * BLOCK_SIZE_BYTES;

function make(
  init: Partial<HostCoreInit> = {},
  isDistrusted: (digest: Digest) => boolean = () => false,
): HostCore<Block, string> {
  return new HostCore<Block, string>(
    {
      ops: { length: ({ lengthBytes }) => lengthBytes, retain: () => {}, release: () => {} },
      random: new SeededRandom('host core'),
      held: () => false,
      blocksOf: () => [],
      isDistrusted,
    },
    { self: ROOT, role: 'root', roots: [ROOT], ...init },
  );
}

function ref(n: number, sizeBytes = SIZE): BlobRef {
  return { digest: digestOf(n), sizeBytes };
}

function wanted(n: number, sizeBytes = SIZE): WantedBlob {
  return { blob: ref(n, sizeBytes), origin: ORIGIN, stripes: [0], held: [] };
}

function join(
  core: HostCore<Block, string>,
  name: string,
  blobs: WantedBlob[],
  nowMs = 0,
): JoinReply {
  const host = card(name);
  const reply = core.join(host.peer, joinOf(host, ...blobs), nowMs);
  core.take();
  return reply;
}

/** Digests that got a place. */
function placed(reply: JoinReply): string[] {
  return reply.places.map(({ digest }) => digest);
}

/** Reads a block at a root, where it comes from the registry. */
function readAtRoot(
  core: HostCore<Block, string>,
  blob: BlobRef,
  index: number,
  nowMs: number,
): void {
  const read = { digest: blob.digest, index: blockIndex(index), kind: 'demand' } as const;
  core.blocks.read({ ...read, token: 'read', timeoutMs: 30_000 }, nowMs);
  const answers: string[] = [];
  for (let effects = core.take(); effects.length > 0; effects = core.take()) {
    for (const effect of effects) {
      if (effect.type === 'ask-origin') {
        core.blocks.received(effect.attempt, { lengthBytes: BLOCK_SIZE_BYTES }, nowMs);
      } else if (effect.type === 'verify') core.blocks.verified(effect.attempt, 'good', nowMs);
      else if (effect.type === 'answer' || effect.type === 'fail') answers.push(effect.type);
    }
  }
  expect(answers).toEqual(['answer']);
}

describe('HostCore of an agent that lives for long', () => {
  it('HostCore opens, reads and closes 100,000 blobs, and remembers none of them', () => {
    const core = make({ blocks: { cacheBytesMax: 2 ** 20 } });
    for (let n = 0; n < 100_000; n++) {
      core.want([{ blob: ref(n), origin: ORIGIN }], n);
      readAtRoot(core, ref(n), n % 3, n);
      core.unwant([digestOf(n)], n);
      core.take();
    }
    expect(core.blocks.blobCount).toBeLessThanOrEqual(1024);
    expect(core.blocks.cacheBytes).toBeLessThanOrEqual(2 ** 20);
    expect(core.trees()).toEqual([]);
  }, 60_000);

  it('HostCore of a root gives places in 100,000 blobs to hosts that go, and refuses none', () => {
    const core = make({ topology: { expiryMs: 1000 } });
    let nowMs = 0;
    for (let n = 0; n < 100_000; n++) {
      const name = `h${n % 100}`;
      expect(join(core, name, [wanted(n)], nowMs++).places).toHaveLength(1);
      if (n % 2 === 0) core.leave(peerId(name), { digests: [digestOf(n)] }, nowMs);
      // Hosts with odd names never leave: all of them are silent every ten thousand blobs.
      if (n % 10_000 === 9_999) core.tick((nowMs += 1_000_000));
      core.take();
    }
    expect(core.topology?.trees()).toEqual([]);
    expect(core.blocks.blobCount).toBeLessThanOrEqual(1024);
  }, 60_000);

  it('HostCore.want() says overloaded and changes nothing at the bound, until one closes', () => {
    const core = make({ blocks: { blobsMax: 4 } });
    core.want(
      [1, 2, 3].map((n) => ({ blob: ref(n), origin: ORIGIN })),
      0,
    );
    const two = [4, 5].map((n) => ({ blob: ref(n), origin: ORIGIN }));
    expect(() => core.want(two, 0)).toThrow(expect.objectContaining({ code: 'overloaded' }));
    expect(core.trees()).toHaveLength(3);
    core.unwant([digestOf(1)], 0);
    core.want(two, 0);
    expect(core.trees()).toHaveLength(4);
  });

  it('HostCore.join() refuses the blobs beyond the bound alone, and places the others', () => {
    const core = make({ blocks: { blobsMax: 2 } });
    expect(placed(join(core, 'a', [wanted(1), wanted(2), wanted(3)]))).toEqual(
      [1, 2].map(digestOf),
    );
    expect(placed(join(core, 'b', [wanted(3), wanted(2)]))).toEqual([digestOf(2)]);
    core.leave(peerId('a'), { digests: [digestOf(1)] }, 0);
    expect(placed(join(core, 'b', [wanted(3)]))).toEqual([digestOf(3)]);
  });
});

describe('HostCore.join()', () => {
  it('HostCore.join() that throws has changed nothing', () => {
    const core = make();
    const stripe = { ...wanted(2), stripes: [7] };
    expect(() => join(core, 'a', [wanted(1), stripe])).toThrow(TreeError);
    expect(core.topology?.trees()).toEqual([]);
    expect(core.blocks.blobCount).toBe(0);
  });

  it.each([0, 2 ** 41])(
    'HostCore.join() gives no place in a blob that is said to have %d bytes',
    (size) => {
      const core = make();
      expect(placed(join(core, 'a', [wanted(1, size), wanted(2)]))).toEqual([digestOf(2)]);
      expect(core.blocks.blob(digestOf(1))).toBeUndefined();
    },
  );
});

describe('HostCore.confirm()', () => {
  it('HostCore.confirm() lets nobody change a size by a JOIN, and refuses that blob alone', () => {
    const core = make();
    core.confirm(ref(1), 0);
    expect(placed(join(core, 'liar', [wanted(1, 100), wanted(2)]))).toEqual([digestOf(2)]);
    expect(core.blocks.blob(digestOf(1))).toEqual(ref(1));
    expect(placed(join(core, 'a', [wanted(1)]))).toEqual([digestOf(1)]);
  });

  it('HostCore.confirm() ends trees and blocks of a wrong first size, and joins again', () => {
    const core = make();
    core.want([{ blob: ref(1, BLOCK_SIZE_BYTES), origin: ORIGIN }], 0);
    join(core, 'liar', [wanted(1, BLOCK_SIZE_BYTES)]);
    readAtRoot(core, ref(1), 0, 0);
    core.confirm(ref(1), 10);
    expect(core.blocks.peek(digestOf(1), blockIndex(0))).toBeUndefined();
    expect(core.topology?.trees()).toEqual([]);
    expect(placed(join(core, 'liar', [wanted(1, BLOCK_SIZE_BYTES)]))).toEqual([]);
    expect(placed(join(core, 'a', [wanted(1)]))).toEqual([digestOf(1)]);
    readAtRoot(core, ref(1), 2, 20);
    core.unwant([digestOf(1)], 30);
    core.leave(peerId('a'), { digests: [digestOf(1)] }, 30);
    expect(core.trees()).toEqual([]);
  });

  it('HostCore.confirm() fails reads in flight of a wrong size, and has peers join again', () => {
    const core = make();
    core.want([{ blob: ref(1, BLOCK_SIZE_BYTES), origin: ORIGIN }], 0);
    const block = { digest: digestOf(1), index: blockIndex(0), kind: 'demand' } as const;
    core.blocks.read({ ...block, token: 'mine', timeoutMs: 1000 }, 0);
    core.blocks.readForPeer('theirs', peerId('a'), { ...block, hops: 4, timeoutMs: 1000 }, 0);
    core.take();
    core.confirm(ref(1), 1);
    const effects = core.take();
    expect(effects).toContainEqual({
      type: 'fail',
      token: 'mine',
      detail: { code: 'size-differs', knownSizeBytes: SIZE },
    });
    expect(effects).toContainEqual({
      type: 'refuse',
      token: 'theirs',
      detail: { code: 'unknown-blob' },
    });
    expect(core.blocks.waitingCount).toBe(0);
  });
});

describe('HostCore.blocks of a root that hosts told what they hold', () => {
  const held = [[0, 3]] as const;
  const block = { digest: digestOf(1), kind: 'demand', token: 'read', timeoutMs: 30_000 } as const;

  /** Whom the root asks for a block: a host, or the registry. */
  function asks(core: HostCore<Block, string>, index: number, nowMs: number): string[] {
    core.blocks.read({ ...block, index: blockIndex(index) }, nowMs);
    return core.take().flatMap((effect) => {
      if (effect.type === 'ask') return [effect.host.peer];
      return effect.type === 'ask-origin' ? ['registry'] : [];
    });
  }

  it('asks one of them while the root is new, and nobody ten minutes later', () => {
    const core = make();
    core.tick(0);
    join(core, 'a', [{ ...wanted(1), held }]);
    join(core, 'b', [{ ...wanted(1), held }]);
    expect(asks(core, 0, 1)).toEqual(['a']);
    expect(asks(core, 1, 10 * 60_000 + 1)).toEqual(['registry']);
    core.rootsChanged({ roots: [ROOT, card('other')] }, 10 * 60_000 + 2);
    expect(asks(core, 2, 10 * 60_000 + 3)).toHaveLength(1);
  });

  it('asks nobody for what they hold of a distrusted blob', () => {
    const core = make({}, (digest) => digest === digestOf(1));
    core.tick(0);
    join(core, 'a', [{ ...wanted(1), held }]);
    expect(asks(core, 0, 1)).toEqual(['registry']);
  });

  it('believes nothing of a host that did not give what it said it holds, for ten minutes', () => {
    const core = make();
    core.tick(0);
    join(core, 'liar', [
      { ...wanted(1), held },
      { ...wanted(2), held },
    ]);
    core.blocks.read({ ...block, index: blockIndex(0) }, 1);
    const ask = core.take().find((effect) => effect.type === 'ask');
    expect(ask?.host.peer).toBe('liar');
    core.blocks.failed(ask?.attempt ?? 0, { code: 'not-found' }, 2);
    core.take();
    expect(asks(core, 1, 3)).toEqual(['registry']);
    join(core, 'liar', [{ ...wanted(1), held }], 4);
    expect(asks(core, 2, 5)).toEqual(['registry']);
  });
});
