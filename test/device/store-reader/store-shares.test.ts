import { mkdirSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { SharedCounts } from '../../../src/device/store-reader/shared-counts.ts';
import { FILES_MAX, SharedFiles } from '../../../src/device/store-reader/shared-files.ts';
import { StoreShares } from '../../../src/device/store-reader/store-shares.ts';
import { silentMetrics, Tally } from '../../../src/runtime/metrics.ts';
import { MIB } from '../../../src/util/bytes.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { openFilesBelow } from './kit/reader-rig.ts';

/** Longest that a removed file stays open, in milliseconds (docs/LIMITS.md). */
const REMOVED_MS_MAX = 2000;

function makeShares() {
  const clock = new ManualClock();
  const readBytes = new Tally(silentMetrics.counter({ name: '', help: '' }), 'from');
  return { clock, readBytes, shares: new StoreShares({ clock, readBytes }) };
}

describe('StoreShares', () => {
  it('divides files and memory among the mounts', () => {
    const { shares } = makeShares();
    const mounts = Array.from({ length: 200 }, () => shares.add());
    const [first] = mounts.map(({ files }) => new SharedFiles(files));
    expect(first?.filesMax).toBeGreaterThanOrEqual(8);
    expect(first?.filesMax).toBeLessThan(FILES_MAX);
    expect(first?.memoryBytesMax).toBe(Math.floor((256 * MIB) / 200));
    for (const { end } of mounts.slice(1)) end();
    expect(first?.memoryBytesMax).toBe(32 * MIB);
  });

  it('closes removed files in time, and all files at the end', () => {
    const { shares, clock } = makeShares();
    const { files, end } = shares.add();
    const shared = new SharedFiles(files);
    const folder = join(tempFolder(), 'store');
    mkdirSync(folder);
    for (const [slot, name] of ['kept', 'removed'].entries()) {
      writeFileSync(join(folder, name), '');
      shared.put(slot, openSync(join(folder, name), 'r'));
    }
    rmSync(join(folder, 'removed'));
    expect(openFilesBelow(folder)).toHaveLength(2);
    clock.advance(REMOVED_MS_MAX);
    expect(openFilesBelow(folder)).toEqual([join(folder, 'kept')]);
    end();
    expect(openFilesBelow(folder)).toEqual([]);
  });

  it('counts what the threads have read, once', () => {
    const { shares, clock, readBytes } = makeShares();
    const { counts, read, end } = shares.add();
    const thread = new SharedCounts(counts);
    thread.add('store', 4096);
    clock.advance(REMOVED_MS_MAX);
    clock.advance(REMOVED_MS_MAX);
    expect(readBytes.sums()).toEqual({ store: 4096, memory: 0 });
    thread.add('memory', 5);
    thread.add('store', 1);
    expect(read()).toEqual({ storeBytes: 4097, memoryBytes: 5 });
    end();
    end();
    expect(readBytes.sums()).toEqual({ store: 4097, memory: 5 });
  });
});
