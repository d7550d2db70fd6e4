import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DiskStore } from '../../src/blockstore/disk-store.ts';
import { BLOCK_SIZE_BYTES, blockCount, blockIndex } from '../../src/image/block.ts';
import { SeededRandom } from '../../src/sim/seeded-random.ts';
import { ManualClock } from '../kit/manual-clock.ts';
import { storeParts, testBlob, testBlock } from '../kit/blocks.ts';
import { SimDisk } from '../kit/sim-disk.ts';
import { blockName, readAll } from './kit/read-all.ts';

const blobs = [testBlob(1, 2 * BLOCK_SIZE_BYTES + 700), testBlob(2, 1500), testBlob(3, 1)];

/** A change of the n-th block of all test blobs, or a sync of all earlier steps. */
const steps = fc.array(fc.tuple(fc.constantFrom('put', 'put', 'put', 'drop', 'sync'), fc.nat(4)), {
  minLength: 1,
  maxLength: 12,
});

function blockAt(n: number) {
  const all = blobs.flatMap((blob) =>
    Array.from({ length: blockCount(blob.sizeBytes) }, (_, i) => ({ blob, index: blockIndex(i) })),
  );
  return all[n % all.length]!;
}

/**
 * Runs the steps until the disk dies. Gives the blocks that must survive a kill of the process, and
 * those that must survive a loss of power.
 */
async function runUntilDeath(disk: SimDisk, changes: readonly (readonly [string, number])[]) {
  const clock = new ManualClock();
  const store = new DiskStore({ ...storeParts(disk), clock });
  const [written, durable, dropped] = [new Set<string>(), new Set<string>(), new Set<string>()];
  const run = async (): Promise<void> => {
    await store.start();
    for (const [kind, n] of changes) {
      const { blob, index } = blockAt(n);
      if (kind === 'put') {
        await store.put(blob, index, testBlock(blob, index));
        written.add(blockName(blob, index));
      } else if (kind === 'drop') {
        for (const set of [written, durable]) set.delete(blockName(blob, index));
        dropped.add(blockName(blob, index));
        await store.drop(blob.digest, index);
      } else {
        const covered = [...written];
        await store.stop();
        for (const each of covered) durable.add(each);
        await store.start();
      }
    }
  };
  // The dead disk never answers, so that the run may never end: check whether it has ended once
  // nothing moves.
  let over = false;
  void run().then(() => (over = true));
  for (let idle = 0, last = -1; !over && idle < 20; idle++) {
    await new Promise((resolve) => setImmediate(resolve));
    if (last !== disk.operationCount) idle = 0;
    last = disk.operationCount;
  }
  return { written, durable, dropped };
}

describe('BlockStore after a crash', () => {
  const schedule = fc.record({ seed: fc.string(), changes: steps, dieAfter: fc.nat(120) });

  it('DiskStore finds every block whose put() resolved when the process was killed', async () => {
    await fc.assert(
      fc.asyncProperty(schedule, async ({ seed, changes, dieAfter }) => {
        const disk = new SimDisk({ random: new SeededRandom(seed) });
        disk.failAfter(dieAfter);
        const { written } = await runUntilDeath(disk, changes);
        const next = new DiskStore({ ...storeParts(disk.kill()), clock: new ManualClock() });
        await next.start();
        const { found, lost } = await readAll(next, blobs);
        expect([...lost]).toEqual([]);
        for (const each of written) expect([...found]).toContain(each);
        await next.stop();
      }),
      { numRuns: 100 },
    );
  });

  it('DiskStore yields no torn block after a loss of power, and keeps synced blocks', async () => {
    await fc.assert(
      fc.asyncProperty(schedule, async ({ seed, changes, dieAfter }) => {
        const disk = new SimDisk({ random: new SeededRandom(seed) });
        disk.failAfter(dieAfter);
        const { durable } = await runUntilDeath(disk, changes);
        const survivor = disk.losePower();
        const next = new DiskStore({ ...storeParts(survivor), clock: new ManualClock() });
        await next.start();
        const { found, lost } = await readAll(next, blobs);
        for (const each of durable) expect([...found]).toContain(each);
        // Lost blocks can be put again.
        for (const blob of blobs) {
          for (let i = 0; i < blockCount(blob.sizeBytes); i++) {
            await next.put(blob, blockIndex(i), testBlock(blob, blockIndex(i)));
          }
        }
        expect((await readAll(next, blobs)).found.size).toBe(5);
        expect(lost.size + found.size).toBeLessThanOrEqual(5);
        await next.stop();
      }),
      { numRuns: 100 },
    );
  });
});
