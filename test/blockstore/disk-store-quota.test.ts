import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DiskStore } from '../../src/blockstore/disk-store.ts';
import { REUSE_GAP_MS } from '../../src/blockstore/eviction.ts';
import { GROUP_BLOCKS } from '../../src/blockstore/layout.ts';
import type { BlockStore } from '../../src/blockstore/store.ts';
import { BLOCK_SIZE_BYTES, blockCount, blockIndex, type BlobRef } from '../../src/image/block.ts';
import { NodeDisk } from '../../src/runtime/node/disk.ts';
import { SeededRandom } from '../../src/sim/seeded-random.ts';
import { ManualClock } from '../kit/manual-clock.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { storeParts, testBlob, testBlock, testBytes } from '../kit/blocks.ts';
import { SimDisk, simError } from '../kit/sim-disk.ts';

/** A started store on a simulated disk, with a quota of `quotaBlocks` blocks. */
async function smallStore(quotaBlocks: number) {
  const disk = new SimDisk({ random: new SeededRandom('quota') });
  const clock = new ManualClock({ startMs: 1_000_000 });
  const open = (on: SimDisk = disk): DiskStore =>
    new DiskStore({ ...storeParts(on), clock }, { quotaBytes: quotaBlocks * BLOCK_SIZE_BYTES });
  const store = open();
  await store.start();
  return { disk, clock, store, open };
}

/** Blobs of one group of `blocks` blocks each. */
const blobsOf = (count: number, blocks: number): BlobRef[] =>
  Array.from({ length: count }, (_, i) => testBlob(i + 1, blocks * BLOCK_SIZE_BYTES));

async function putAll(store: BlockStore, blob: BlobRef): Promise<void> {
  for (let i = 0; i < blockCount(blob.sizeBytes); i++) {
    await store.put(blob, blockIndex(i), testBlock(blob, blockIndex(i)));
  }
}

/** Resolves when no background work is left. */
async function settle(disk: SimDisk): Promise<void> {
  for (let idle = 0, last = -1; idle < 20; idle++) {
    await new Promise((resolve) => setImmediate(resolve));
    if (last !== disk.operationCount) idle = 0;
    last = disk.operationCount;
  }
}

const held = (store: BlockStore, blobs: readonly BlobRef[]): boolean[] =>
  blobs.map((blob) => store.blocksOf(blob.digest).length > 0);

describe('DiskStore with a quota', () => {
  it('DiskStore evicts from the high watermark to the low one, by least recent use', async () => {
    const { disk, clock, store } = await smallStore(40);
    const blobs = blobsOf(10, 4);
    for (const blob of blobs.slice(0, 9)) {
      clock.jump(1000);
      await putAll(store, blob);
    }
    (await store.get(blobs[0]!, blockIndex(0)))?.payload.release();
    expect(store.stats().blockCount).toBe(36);
    await putAll(store, blobs[9]!);
    await settle(disk);
    // 39 of 40 were beyond 95 %: one group of 4 made it 36, which is 90 %.
    expect(held(store, blobs)).toEqual([true, false, ...Array(8).fill(true)]);
    expect(disk.paths().filter((path) => path.includes(blobs[1]!.digest.slice(7)))).toEqual([]);
    await store.stop();
  });

  it('DiskStore keeps blocks that are used again, over any scan', async () => {
    const { disk, clock, store } = await smallStore(40);
    const [hot, ...scan] = blobsOf(60, 4);
    for (const round of [0, 1]) {
      clock.jump(round * REUSE_GAP_MS);
      await putAll(store, hot!);
      (await store.get(hot!, blockIndex(0)))?.payload.release();
      if (round === 0) for (const blob of scan.slice(0, 4)) await putAll(store, blob);
    }
    for (const blob of scan) {
      await putAll(store, blob);
      await settle(disk);
    }
    expect(store.blocksOf(hot!.digest)).toHaveLength(4);
    expect(store.stats().sizeBytes).toBeLessThanOrEqual(40 * BLOCK_SIZE_BYTES);
    await store.stop();
  });

  it('DiskStore keeps mounted and pinned blobs, and refuses other blocks instead', async () => {
    const { disk, store } = await smallStore(40);
    const blobs = blobsOf(12, 4);
    const [pinned, mounted, ...plain] = blobs;
    await store.pin(pinned!.digest);
    store.retain([mounted!.digest]);
    for (const blob of blobs) {
      await putAll(store, blob);
      await settle(disk);
    }
    expect(held(store, [pinned!, mounted!])).toEqual([true, true]);
    store.retain(plain.map(({ digest }) => digest));
    const late = testBlob(200, 6 * BLOCK_SIZE_BYTES);
    const results = await Promise.all(
      Array.from({ length: 6 }, (_, i) =>
        store.put(late, blockIndex(i), testBlock(late, blockIndex(i))).then(
          () => 'kept',
          (error: { code: string }) => error.code,
        ),
      ),
    );
    await settle(disk);
    // The last tenth is full; a plain block evicts no group of a higher class.
    expect(results).toContain('quota');
    expect(held(store, [pinned!, mounted!])).toEqual([true, true]);
    store.release(plain.map(({ digest }) => digest));
    await store.put(late, blockIndex(5), testBlock(late, blockIndex(5))).catch(() => {});
    await settle(disk);
    await store.put(late, blockIndex(5), testBlock(late, blockIndex(5)));
    expect(held(store, [pinned!, mounted!])).toEqual([true, true]);
    await store.stop();
  });

  it('DiskStore never evicts a group that is being read or written', async () => {
    const { disk, store } = await smallStore(100);
    const [read, written, other] = blobsOf(3, 4);
    const gate = Promise.withResolvers<void>();
    await putAll(store, read!);
    await putAll(store, other!);
    await store.put(written!, blockIndex(0), testBlock(written!, blockIndex(0)));
    disk.setFault((operation, path) =>
      (operation === 'read' && path.includes(read!.digest.slice(7))) ||
      (operation === 'write' && path.includes(written!.digest.slice(7)))
        ? gate.promise
        : undefined,
    );
    const reading = store.get(read!, blockIndex(1));
    const writing = store.put(written!, blockIndex(1), testBlock(written!, blockIndex(1)));
    expect(await store.gc({ targetBytes: 0 })).toEqual({
      blockCount: 4,
      sizeBytes: 4 * BLOCK_SIZE_BYTES,
    });
    expect(held(store, [read!, written!, other!])).toEqual([true, true, false]);
    gate.resolve();
    const block = await reading;
    expect(Buffer.compare(block!.payload.bytes, testBytes(read!, blockIndex(1)))).toBe(0);
    block?.payload.release();
    await writing;
    expect(store.blocksOf(written!.digest)).toEqual([0, 1]);
    expect(await store.gc({ targetBytes: 0 })).toMatchObject({ blockCount: 6 });
    expect(store.stats()).toEqual({ blobCount: 0, blockCount: 0, sizeBytes: 0 });
    await store.stop();
  });

  it('DiskStore leaves a thread for reads while it writes, syncs and evicts', async () => {
    const { disk, clock, store } = await smallStore(40);
    const [hot, ...others] = blobsOf(40, 4);
    await putAll(store, hot!);
    store.retain([hot!.digest]);
    const held: (() => void)[] = [];
    let slow = 0;
    let slowMax = 0;
    let counts = { sync: 0, write: 0, remove: 0 };
    disk.setFault(async (operation) => {
      if (operation !== 'write' && operation !== 'sync' && operation !== 'remove') return;
      counts = { ...counts, [operation]: counts[operation] + 1 };
      slow++;
      slowMax = Math.max(slowMax, slow);
      await new Promise<void>((resolve) => held.push(resolve));
      slow--;
    });
    const puts = others.map((blob) => putAll(store, blob).catch(() => {}));
    const all = Promise.all(puts);
    let over = false;
    void all.then(() => (over = true));
    for (let turn = 0; !over; turn++) {
      // Every operation that could begin has begun: the disk waits for the test.
      await settle(disk);
      if (turn % 8 === 0) clock.fireAll();
      const block = await store.get(hot!, blockIndex(turn % 4));
      expect(block).toBeDefined();
      block?.payload.release();
      held.shift()?.();
    }
    disk.setFault(() => {});
    for (const release of held) release();
    expect(counts.sync * counts.write * counts.remove).toBeGreaterThan(0);
    expect(slowMax).toBe(3);
    await store.stop();
  });

  it('DiskStore keeps its blocks when the disk fails to remove them, and tries again', async () => {
    const { disk, clock, store } = await smallStore(8);
    const [first, second] = blobsOf(2, 4);
    await putAll(store, first!);
    const full = blockIndex(0);
    disk.setFault((operation, path) => {
      if (operation === 'write' && path.endsWith('/records')) throw simError('read-only', path);
    });
    await expect(store.gc({ targetBytes: 0 })).rejects.toMatchObject({ code: 'read-only' });
    expect(store.blocksOf(first!.digest)).toEqual([0, 1, 2, 3]);
    expect(store.stats().blockCount).toBe(4);
    await expect(store.put(second!, full, testBlock(second!, full))).rejects.toMatchObject({
      code: 'read-only',
    });
    disk.setFault(() => {});
    clock.jump(1000);
    expect(await store.gc({ targetBytes: 0 })).toMatchObject({ blockCount: 4 });
    await putAll(store, second!);
    await store.stop();
  });

  it('DiskStore forgets the blobs used least recently before it holds too many', async () => {
    const { disk, store } = await smallStore(1000);
    await store.stop();
    const small = new DiskStore({ ...storeParts(disk) }, { blobsMax: 20 });
    await small.start();
    const blobs = blobsOf(50, 1);
    for (const blob of blobs) {
      await putAll(small, blob);
      await settle(disk);
      expect(small.stats().blobCount).toBeLessThanOrEqual(20);
    }
    expect(held(small, blobs.slice(-10))).toEqual(Array(10).fill(true));
    expect(held(small, blobs.slice(0, 25))).toEqual(Array(25).fill(false));
    await small.stop();
  });

  it('DiskStore remembers uses and pins over a restart, and keeps a lowered quota', async () => {
    const { disk, clock, store } = await smallStore(100);
    const blobs = blobsOf(5, 4);
    for (const blob of blobs) {
      clock.jump(1000);
      await putAll(store, blob);
    }
    clock.jump(1000);
    (await store.get(blobs[0]!, blockIndex(2)))?.payload.release();
    await store.pin(blobs[1]!.digest);
    await store.stop();
    const next = new DiskStore(
      { ...storeParts(disk), clock },
      { quotaBytes: 12 * BLOCK_SIZE_BYTES },
    );
    await next.start();
    await settle(disk);
    // Of 5 groups of 4 blocks, 2 fit below 90 % of 12 blocks: the pinned one and the one read last.
    expect(held(next, blobs)).toEqual([true, true, false, false, false]);
    expect(next.usage()).toMatchObject([
      { digest: blobs[0]!.digest, heldBytes: 4 * BLOCK_SIZE_BYTES, keep: 'plain' },
      { digest: blobs[1]!.digest, keep: 'pinned', pinned: true, mounted: false },
    ]);
    await next.unpin(blobs[1]!.digest);
    await next.stop();
    await next.start();
    expect(next.usage().map(({ pinned }) => pinned)).toEqual([false, false]);
    await next.stop();
  });

  it('DiskStore starts without uses and pins when their files are damaged', async () => {
    const { disk, store, open } = await smallStore(100);
    const [blob] = blobsOf(1, 4);
    await putAll(store, blob!);
    await store.pin(blob!.digest);
    await store.stop();
    disk.rot('usage', 20);
    disk.rot('pins', 3);
    const next = open();
    await next.start();
    expect(next.blocksOf(blob!.digest)).toHaveLength(4);
    expect(next.usage()).toMatchObject([{ keep: 'plain' }]);
    await next.stop();
  });
});

const places = [
  testBlob(1, (GROUP_BLOCKS + 3) * BLOCK_SIZE_BYTES + 5),
  testBlob(2, 3 * BLOCK_SIZE_BYTES),
  testBlob(3, 2 * BLOCK_SIZE_BYTES + 1),
  testBlob(4, 100),
].flatMap((blob) => {
  const count = blockCount(blob.sizeBytes);
  const first = count > 10 ? [0, 1, GROUP_BLOCKS - 1, GROUP_BLOCKS, count - 1] : [0, 1, 2];
  return first.filter((i) => i < count).map((i) => ({ blob, index: blockIndex(i) }));
});

const change = fc.tuple(
  fc.constantFrom('put', 'put', 'put', 'put', 'get', 'drop', 'pin', 'unpin', 'gc'),
  fc.nat(places.length - 1),
);

async function apply(store: BlockStore, [kind, n]: readonly [string, number]): Promise<void> {
  const { blob, index } = places[n]!;
  if (kind === 'drop') return store.drop(blob.digest, index);
  if (kind === 'pin') return store.pin(blob.digest);
  if (kind === 'unpin') return store.unpin(blob.digest);
  if (kind === 'gc') return void (await store.gc({ targetBytes: n * BLOCK_SIZE_BYTES }));
  if (kind === 'get') return (await store.get(blob, index))?.payload.release();
  await store.put(blob, index, testBlock(blob, index)).catch((error: { code?: unknown }) => {
    if (error.code !== 'quota') throw error;
  });
}

async function readEveryBlock(store: BlockStore): Promise<void> {
  for (const { blob, index } of places) {
    if (!store.has(blob.digest, index)) continue;
    const block = await store.get(blob, index);
    // The block may have been evicted meanwhile, but never has a wrong byte.
    if (block === undefined) continue;
    expect(Buffer.compare(block.payload.bytes, testBytes(blob, index))).toBe(0);
    block.payload.release();
  }
}

/** Data files with their sizes, by `<blob>/<group>`. */
function dataFiles(root: string): Map<string, number> {
  const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter((name) => /\/data\.\d+$/.test(name))
    .map((name) => [name.split('/').slice(-2).join('/'), statSync(join(root, name)).size] as const);
  return new Map(files);
}

describe('DiskStore with a quota, under any schedule', () => {
  const QUOTA_BLOCKS = 6;
  const parallel = fc.array(change, { minLength: 1, maxLength: 8 });
  const step = fc.oneof(
    { weight: 6, arbitrary: parallel },
    { weight: 1, arbitrary: fc.constant('restart' as const) },
  );

  it('DiskStore keeps its quota, gives right bytes, and leaves no evicted file', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 10 }), async (steps) => {
        const root = tempFolder();
        const disk = new NodeDisk({ root });
        const quotaBytes = QUOTA_BLOCKS * BLOCK_SIZE_BYTES;
        const store = new DiskStore(storeParts(disk), { quotaBytes });
        await store.start();
        try {
          for (const each of steps) {
            if (each === 'restart') {
              await store.stop();
              await store.start();
            } else await Promise.all(each.map((one) => apply(store, one)));
            expect(store.stats().sizeBytes).toBeLessThanOrEqual(quotaBytes);
            await readEveryBlock(store);
          }
        } finally {
          const groups = new Set(
            store
              .blobs()
              .flatMap(({ digest }) =>
                store
                  .blocksOf(digest)
                  .map((index) => `${digest.slice(7)}/data.${Math.floor(index / GROUP_BLOCKS)}`),
              ),
          );
          await store.stop();
          for (const name of dataFiles(root).keys()) expect([...groups]).toContain(name);
        }
      }),
      { numRuns: 40 },
    );
  });

  const schedule = fc.record({
    seed: fc.string(),
    changes: fc.array(change, { minLength: 4, maxLength: 25 }),
    dieAfter: fc.nat(160),
    power: fc.boolean(),
  });

  it('DiskStore is sound after a death during evictions, and counts all its space', async () => {
    await fc.assert(
      fc.asyncProperty(schedule, async ({ seed, changes, dieAfter, power }) => {
        const disk = new SimDisk({ random: new SeededRandom(seed) });
        const quotaBytes = QUOTA_BLOCKS * BLOCK_SIZE_BYTES;
        const clock = new ManualClock();
        const store = new DiskStore({ ...storeParts(disk), clock }, { quotaBytes });
        disk.failAfter(dieAfter);
        const run = async (): Promise<void> => {
          await store.start();
          for (const each of changes) await apply(store, each);
        };
        void run().catch(() => {});
        await settle(disk);
        const after = power ? disk.losePower() : disk.kill();
        const next = new DiskStore({ ...storeParts(after), clock }, { quotaBytes });
        await next.start();
        const promised = places.filter(({ blob, index }) => next.has(blob.digest, index));
        await readEveryBlock(next);
        if (!power) {
          for (const { blob, index } of promised) {
            expect(next.has(blob.digest, index)).toBe(true);
          }
        }
        const groups = new Set(
          places
            .filter(({ blob, index }) => next.has(blob.digest, index))
            .map(({ blob, index }) =>
              [blob.digest.slice(7), `data.${Math.floor(index / GROUP_BLOCKS)}`].join('/'),
            ),
        );
        await next.stop();
        for (const path of after.paths().filter((each) => each.includes('/data.'))) {
          expect([...groups]).toContain(path.split('/').slice(-2).join('/'));
        }
      }),
      { numRuns: 150 },
    );
  });
});
