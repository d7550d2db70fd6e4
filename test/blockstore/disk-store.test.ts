import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { DiskStore } from '../../src/blockstore/disk-store.ts';
import { BLOCK_SIZE_BYTES, blockIndex } from '../../src/image/block.ts';
import type { LogFields, Logger } from '../../src/runtime/logger.ts';
import type { Metrics } from '../../src/runtime/metrics.ts';
import { NodeDisk } from '../../src/runtime/node/disk.ts';
import { SeededRandom } from '../../src/sim/seeded-random.ts';
import { ManualClock } from '../kit/manual-clock.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { storeParts, testBlob, testBlock, testBytes } from '../kit/blocks.ts';
import { describeBlockStore } from './kit/contract.ts';
import { SimDisk, simError, type DiskOperation } from '../kit/sim-disk.ts';

describeBlockStore('DiskStore', {
  open: () => {
    const root = tempFolder();
    const open = (): DiskStore => new DiskStore(storeParts(new NodeDisk({ root })));
    return { store: open(), reopen: open };
  },
});

describeBlockStore('DiskStore that may hold one file open, on a disk with short reads,', {
  open: () => {
    const disk = new SimDisk({ random: new SeededRandom('contract') });
    const open = (): DiskStore =>
      new DiskStore({ ...storeParts(disk), clock: new ManualClock() }, { filesOpenMax: 1 });
    return { store: open(), reopen: open };
  },
});

const blob = testBlob(1, 3 * BLOCK_SIZE_BYTES + 100);
const [zero, one, two] = [blockIndex(0), blockIndex(1), blockIndex(2)];
const data = `blobs/01/${blob.digest.slice(7)}/data.0`;
const records = `blobs/01/${blob.digest.slice(7)}/records`;

/** A started store on a simulated disk, with its log lines and metrics. */
async function simStore(init: ConstructorParameters<typeof DiskStore>[1] = {}) {
  const disk = new SimDisk({ random: new SeededRandom('store') });
  const clock = new ManualClock();
  const counts: Record<string, number> = {};
  const lines: string[] = [];
  const parts = { ...storeParts(disk), clock, metrics: counting(counts), logger: noting(lines) };
  const store = new DiskStore(parts, init);
  await store.start();
  const put = (index: ReturnType<typeof blockIndex>): Promise<void> =>
    store.put(blob, index, testBlock(blob, index));
  return { disk, clock, store, put, counts, lines, reopen: () => new DiskStore(parts, init) };
}

/** Values of metrics by name and label values. */
function counting(counts: Record<string, number>): Metrics {
  const add = (name: string, labels: Readonly<Record<string, string>>, value: number): void => {
    const key = [name.replace('xylem_store_', ''), ...Object.values(labels)].join(' ');
    counts[key] = (counts[key] ?? 0) + value;
  };
  return {
    counter: ({ name }) => ({ inc: (labels, value = 1) => add(name, labels, value) }),
    gauge: ({ name }) => ({
      set: (labels, value) => {
        counts[name.replace('xylem_store_', '')] = 0;
        add(name, labels, value);
      },
    }),
    histogram: ({ name }) => ({ observe: (labels) => add(name, labels, 1) }),
  };
}

function noting(lines: string[]): Logger {
  const note = (_fields: LogFields, message: string): void => void lines.push(message);
  const logger = { debug: note, info: note, warn: note, error: note, child: () => logger };
  return logger;
}

/** Fails operations of this kind on paths with this ending. */
function failing(operation: DiskOperation, suffix: string, code: 'no-space' | 'io' | 'read-only') {
  return (each: DiskOperation, path: string): void => {
    if (each === operation && path.endsWith(suffix)) throw simError(code, path);
  };
}

describe('DiskStore on a disk that fails', () => {
  for (const code of ['no-space', 'read-only', 'io'] as const) {
    it(`DiskStore.put() rejects with ${code} by the disk, and reads go on`, async () => {
      const { disk, store, put, counts, lines } = await simStore();
      await put(zero);
      for (const suffix of ['/data.0', '/records']) {
        disk.setFault(failing('write', suffix, code));
        await expect(put(one)).rejects.toMatchObject({ name: 'BlockStoreError', code });
        expect(store.has(blob.digest, one)).toBe(false);
        const found = await store.get(blob, zero);
        expect(Buffer.compare(found!.payload.bytes, testBytes(blob, zero))).toBe(0);
        found?.payload.release();
      }
      expect(counts['writes_failing']).toBe(1);
      disk.setFault(() => {});
      await put(one);
      expect(store.blocksOf(blob.digest)).toEqual([zero, one]);
      expect(counts['writes_failing']).toBe(0);
      expect(lines).toEqual([
        'writes to the disk fail: blocks are passed on without being stored',
        'the disk takes writes again; the store keeps blocks',
      ]);
      expect(counts).toMatchObject({ [`errors_total put ${code}`]: 2, write_queue_bytes: 0 });
      await store.stop();
    });
  }

  it('DiskStore.put() of the first block of a blob leaves no memory on failure', async () => {
    const { disk, store, put } = await simStore();
    disk.setFault(failing('open', '/records', 'no-space'));
    await expect(put(zero)).rejects.toMatchObject({ code: 'no-space' });
    expect(store.stats()).toMatchObject({ blobCount: 0, blockCount: 0, sizeBytes: 0 });
    disk.setFault(() => {});
    await put(zero);
    expect(store.has(blob.digest, zero)).toBe(true);
    await store.stop();
  });

  it('DiskStore.get() rejects with io on an unreadable block, and forgets it', async () => {
    const { disk, store, put, counts } = await simStore();
    await put(zero);
    disk.setFault(failing('read', '/data.0', 'io'));
    await expect(store.get(blob, zero)).rejects.toMatchObject({ code: 'io' });
    expect(store.has(blob.digest, zero)).toBe(false);
    disk.setFault(() => {});
    await put(zero);
    (await store.get(blob, zero))?.payload.release();
    expect(counts).toMatchObject({ 'errors_total get io': 1, 'blocks_total hit': 1 });
    await store.stop();
  });

  for (const [what, path, offset] of [
    ['bytes', data, BLOCK_SIZE_BYTES + 5],
    ['record', records, 64 + 244 + 50],
  ] as const) {
    it(`DiskStore.get() drops and misses a block whose ${what} rotted`, async () => {
      const { disk, store, put, counts, lines, reopen } = await simStore();
      for (const index of [zero, one, two]) await put(index);
      disk.rot(path, offset);
      expect(await store.get(blob, one)).toBeUndefined();
      expect(store.has(blob.digest, one)).toBe(false);
      expect(counts).toMatchObject({ 'blocks_total damaged': 1, present_blocks: 2 });
      expect(lines).toContain('a block in the store was lost');
      await store.stop();
      const next = reopen();
      await next.start();
      expect(next.blocksOf(blob.digest)).toEqual([zero, two]);
      await next.put(blob, one, testBlock(blob, one));
      const found = await next.get(blob, one);
      expect(Buffer.compare(found!.payload.bytes, testBytes(blob, one))).toBe(0);
      found?.payload.release();
      await next.stop();
    });
  }

  it('DiskStore.get() misses blocks whose files were removed', async () => {
    const { disk, store, put } = await simStore({ filesOpenMax: 0 });
    await put(zero);
    await disk.remove(data);
    expect(await store.get(blob, zero)).toBeUndefined();
    await store.stop();
  });

  it('DiskStore.stop() rejects when the last sync fails, but releases everything', async () => {
    const { disk, store, put, counts, reopen } = await simStore();
    await put(zero);
    disk.setFault(failing('sync', '/data.0', 'io'));
    await expect(store.stop()).rejects.toMatchObject({ code: 'io' });
    expect(counts).toMatchObject({ 'errors_total sync io': 1 });
    const next = reopen();
    await next.start();
    expect(next.has(blob.digest, zero)).toBe(true);
    await next.stop();
  });
});

describe('DiskStore limits', () => {
  it('DiskStore.put() rejects with busy when the queue is full, and succeeds later', async () => {
    const { disk, store, put, counts } = await simStore({ queueBytesMax: 2 * BLOCK_SIZE_BYTES });
    const gate = Promise.withResolvers<void>();
    disk.setFault((operation) => (operation === 'write' ? gate.promise : undefined));
    const accepted = [put(zero), put(one)];
    await expect(put(two)).rejects.toMatchObject({ code: 'busy' });
    expect(counts['write_queue_bytes']).toBe(2 * BLOCK_SIZE_BYTES);
    gate.resolve();
    await Promise.all(accepted);
    await put(two);
    expect(counts['write_queue_bytes']).toBe(0);
    await store.stop();
  });

  it('DiskStore.put() rejects with no-space below freeBytesMin, and the store evicts', async () => {
    const { disk, clock, store, put, counts, lines } = await simStore({ freeBytesMin: 1000 });
    disk.freeSpaceBytes = 999;
    clock.jump(1000);
    await put(zero);
    await expect(put(one)).rejects.toMatchObject({ code: 'no-space' });
    // A byte was missing: the only group is evicted.
    while (counts['blocks_total evicted'] === undefined) await Promise.resolve();
    expect(store.has(blob.digest, zero)).toBe(false);
    disk.freeSpaceBytes = 1000;
    clock.jump(1000);
    await expect(put(one)).rejects.toMatchObject({ code: 'no-space' });
    await put(one);
    expect(lines).toEqual([
      'the disk is full; the store takes no blocks',
      'blocks evicted',
      'the disk has room again; the store takes blocks',
    ]);
    await store.stop();
  });

  it('DiskStore syncs all writes at once, half a second after the first one', async () => {
    const { disk, clock, store, put, counts } = await simStore();
    const synced: string[] = [];
    disk.setFault((operation, path) => {
      if (operation === 'sync') synced.push(path);
    });
    await put(zero);
    await put(one);
    expect(synced).toEqual([]);
    expect(clock.delays).toEqual([500]);
    clock.fireAll();
    while (counts['sync_seconds'] === undefined) await Promise.resolve();
    const folder = data.slice(0, -'/data.0'.length);
    expect(synced).toEqual(['blobs', data, records, folder, 'blobs/01']);
    await put(two);
    expect(clock.delays).toEqual([500]);
    await store.stop();
    expect(synced.slice(5)).toEqual([data, records]);
    expect(clock.delays).toEqual([]);
  });

  it('DiskStore.put() waits for no sync, however long that takes', async () => {
    const { disk, clock, store, put } = await simStore();
    const gate = Promise.withResolvers<void>();
    disk.setFault((operation) => (operation === 'sync' ? gate.promise : undefined));
    await put(zero);
    clock.fireAll();
    await put(one);
    await put(two);
    expect(store.blocksOf(blob.digest)).toEqual([zero, one, two]);
    gate.resolve();
    await store.stop();
  });

  it('DiskStore returns every buffer that it took', async () => {
    const { store, put } = await simStore();
    const block = testBlock(blob, zero);
    await store.put(blob, zero, block);
    block.payload.release();
    expect(() => block.payload.bytes).toThrow('released');
    await put(one);
    await store.stop();
  });
});

describe('DiskStore.start()', () => {
  const started = async (root: string): Promise<{ store: DiskStore; lines: string[] }> => {
    const lines: string[] = [];
    const parts = { ...storeParts(new NodeDisk({ root })), logger: noting(lines) };
    const store = new DiskStore(parts);
    await store.start();
    return { store, lines };
  };

  it('DiskStore.start() refuses an unknown version, and leaves the folder unchanged', async () => {
    const root = tempFolder();
    writeFileSync(join(root, 'version'), 'xylem-store 1\n');
    await expect(started(root)).rejects.toMatchObject({
      detail: { code: 'version', found: 'xylem-store 1\n' },
    });
    await expect(started(root)).rejects.toThrow('xylem-store 3');
    expect(readdirSync(root)).toEqual(['version']);
  });

  it('DiskStore.start() refuses a folder that another store uses', async () => {
    const root = tempFolder();
    const { store } = await started(root);
    await expect(started(root)).rejects.toMatchObject({ name: 'BlockStoreError', code: 'locked' });
    await store.stop();
    await (await started(root)).store.stop();
  });

  it('DiskStore.start() ignores foreign files, removes damaged blobs, and logs both', async () => {
    const root = tempFolder();
    const first = await started(root);
    await first.store.put(blob, zero, testBlock(blob, zero));
    await first.store.stop();
    const [damaged, alien] = ['02' + 'e7'.repeat(31), '03' + 'e7'.repeat(31)];
    for (const folder of ['blobs/zz', `blobs/02/${damaged}`, `blobs/03/${alien}`, 'blobs/04/x']) {
      mkdirSync(join(root, folder), { recursive: true });
    }
    writeFileSync(join(root, `blobs/02/${damaged}/records`), 'not a header');
    writeFileSync(join(root, 'blobs/01/file'), 'x');
    writeFileSync(join(root, 'blobs/file'), 'x');
    writeFileSync(join(root, 'file'), 'x');
    const { store, lines } = await started(root);
    expect(store.blobs()).toEqual([blob]);
    expect(lines.toSorted()).toEqual([
      'a blob in the store has a damaged header; it is removed',
      'a blob in the store is unreadable',
      'a part of the store is unreadable',
      'the store ignores files that it did not make',
      'the store ignores files that it did not make',
    ]);
    const other = testBlob(2, 5);
    await store.put(other, zero, testBlock(other, zero));
    await store.stop();
    const { store: next } = await started(root);
    expect(next.blobs()).toHaveLength(2);
    await next.stop();
  });

  it('DiskStore.drop() of the last block of a blob removes its folder', async () => {
    const root = tempFolder();
    const { store } = await started(root);
    await store.put(blob, zero, testBlock(blob, zero));
    await store.drop(blob.digest, zero);
    await store.stop();
    expect(readdirSync(join(root, 'blobs/01'))).toEqual([]);
    expect(readdirSync(root).toSorted()).toEqual(['blobs', 'usage', 'version']);
  });

  it('DiskStore.start() reconciles data and records', async () => {
    const root = tempFolder();
    const large = testBlob(5, 130 * BLOCK_SIZE_BYTES);
    const { store } = await started(root);
    for (const index of [0, 63, 64].map(blockIndex)) {
      await store.put(large, index, testBlock(large, index));
    }
    await store.stop();
    const folder = join(root, `blobs/05/${large.digest.slice(7)}`);
    rmSync(join(folder, 'data.0'));
    writeFileSync(join(folder, 'data.2'), 'records of it were erased before the crash');
    const { store: next, lines } = await started(root);
    expect(next.blocksOf(large.digest)).toEqual([64]);
    expect(next.stats().sizeBytes).toBe(BLOCK_SIZE_BYTES);
    expect(readdirSync(folder).toSorted()).toEqual(['data.1', 'records']);
    expect(lines).toEqual(['blocks in the store were lost: their data is gone']);
    await next.stop();
    const again = await started(root);
    expect(again.lines).toEqual([]);
    expect(again.store.blocksOf(large.digest)).toEqual([64]);
    await again.store.stop();
  });
});
