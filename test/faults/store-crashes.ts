import { DiskStore } from '../../src/blockstore/disk-store.ts';
import {
  BLOCK_SIZE_BYTES,
  blockCount,
  blockIndex,
  type BlobRef,
  type BlockIndex,
} from '../../src/image/block.ts';
import { SeededRandom } from '../../src/sim/seeded-random.ts';
import { ManualClock } from '../kit/manual-clock.ts';
import { storeParts, testBlob, testBlock, testBytes } from '../kit/blocks.ts';
import { SimDisk } from '../kit/sim-disk.ts';
import type { FaultReport } from './fault-report.ts';

/** Crashes of one disk in a row: each finds the remains of the crash before. */
export const CRASHES_PER_DISK = 10;

/** Maximum number of disk operations in a life, and of its rounds of changes. */
const OPERATIONS_MAX = 120;
const ROUNDS_MAX = 12;

/** Turns of the event loop without any operation after which a dead disk has nothing left to do. */
const IDLE_TURNS = 20;

const BLOBS = [testBlob(1, 2 * BLOCK_SIZE_BYTES + 700), testBlob(2, 1500), testBlob(3, 70_000)];

interface Place {
  readonly blob: BlobRef;
  readonly index: BlockIndex;
}

const PLACES: readonly Place[] = BLOBS.flatMap((blob) =>
  Array.from({ length: blockCount(blob.sizeBytes) }, (_, i) => ({ blob, index: blockIndex(i) })),
);

/** Blocks that must be there after a kill (`written`), and after a loss of power (`durable`). */
interface Promised {
  readonly written: Set<string>;
  /**
   * Written in this life, and so made durable by the next `stop()`. The kernel is responsible for
   * earlier blocks: a store that starts after a kill syncs only the blocks that it touched.
   */
  readonly fresh: Set<string>;
  readonly durable: Set<string>;
}

/**
 * Lets a block store die at any operation of its simulated disk, `CRASHES_PER_DISK` times on the
 * same disk. It dies by a kill, or by a loss of power that keeps any part of the unsynced writes.
 * After each crash every block found has the right bytes, and no promised block is missing.
 */
export async function storeCrashes(seed: number, report: FaultReport): Promise<void> {
  const random = new SeededRandom(`store crashes ${seed}`);
  const onMischief = (kind: string): void => report.add('injected', `disk: ${kind}`);
  let disk = new SimDisk({ random: random.split('disk'), onMischief });
  const promised: Promised = { written: new Set(), fresh: new Set(), durable: new Set() };
  for (let crash = 0; crash < CRASHES_PER_DISK; crash++) {
    const where =
      `crash ${crash} of store seed ${seed}; ` + `again: --only store --seed ${seed} --count 1`;
    disk.failAfter(random.below(OPERATIONS_MAX));
    await liveUntilDeath(disk, { random, promised });
    const power = random.below(2) === 0;
    disk = power ? disk.losePower() : disk.kill();
    report.add('crashes', power ? 'store, loss of power (simulated)' : 'store, kill (simulated)');
    await checkSurvivor(disk, { power, promised, where }, report);
  }
}

async function liveUntilDeath(
  disk: SimDisk,
  { random, promised }: { random: SeededRandom; promised: Promised },
): Promise<void> {
  const store = new DiskStore({ ...storeParts(disk), clock: new ManualClock() });
  const live = async (): Promise<void> => {
    await store.start();
    for (let round = random.below(ROUNDS_MAX); round > 0; round--) {
      if (random.below(6) === 0) {
        await store.stop();
        for (const name of promised.fresh) promised.durable.add(name);
        await store.start();
        continue;
      }
      // Several at a time, of different blocks: so the last change of each block is known.
      const places = random.shuffle([...PLACES]).slice(0, 1 + random.below(3));
      await Promise.all(
        places.map((place) => change(store, place, { drop: random.below(4) === 0, promised })),
      );
    }
  };
  // The dead disk never answers, so the life may never end by itself: it ends once nothing moves
  // any more.
  let over = false;
  void live().then(() => (over = true));
  for (let idle = 0, last = -1; !over && idle < IDLE_TURNS; idle++) {
    await new Promise((resolve) => setImmediate(resolve));
    if (last !== disk.operationCount) idle = 0;
    last = disk.operationCount;
  }
}

async function change(
  store: DiskStore,
  { blob, index }: Place,
  { drop, promised }: { drop: boolean; promised: Promised },
): Promise<void> {
  const name = nameOf(blob, index);
  if (drop) {
    for (const names of Object.values(promised) as Set<string>[]) names.delete(name);
    return store.drop(blob.digest, index);
  }
  const known = store.has(blob.digest, index);
  await store.put(blob, index, testBlock(blob, index));
  promised.written.add(name);
  if (!known) promised.fresh.add(name);
}

async function checkSurvivor(
  disk: SimDisk,
  { power, promised, where }: { power: boolean; promised: Promised; where: string },
  report: FaultReport,
): Promise<void> {
  const store = new DiskStore({ ...storeParts(disk), clock: new ManualClock() });
  await store.start();
  const found = new Set<string>();
  for (const { blob, index } of PLACES) {
    const block = await store.get(blob, index);
    if (block === undefined) continue;
    report.compare(block.payload.bytes, testBytes(blob, index), `${nameOf(blob, index)}, ${where}`);
    block.payload.release();
    found.add(nameOf(blob, index));
  }
  const wanted = power ? promised.durable : promised.written;
  for (const name of wanted) {
    report.add('checked', 'promised blocks looked for');
    if (!found.has(name))
      report.violate(
        'lost durable block',
        `${name} after a ${power ? 'loss of power' : 'kill'}, ${where}`,
      );
  }
  await store.stop();
  promised.fresh.clear();
  replace(promised.written, found);
  // A disk that lost its power has no unsynced writes left.
  if (power) replace(promised.durable, found);
}

function replace(names: Set<string>, others: ReadonlySet<string>): void {
  names.clear();
  for (const name of others) names.add(name);
}

function nameOf(blob: BlobRef, index: BlockIndex): string {
  return `${blob.digest.slice(7, 9)}/${index}`;
}
