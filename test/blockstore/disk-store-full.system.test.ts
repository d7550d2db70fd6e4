import { execFileSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { DiskStore } from '../../src/blockstore/disk-store.ts';
import { BLOCK_SIZE_BYTES, blockIndex } from '../../src/image/block.ts';
import { silentMetrics, type Metrics } from '../../src/runtime/metrics.ts';
import { NodeDisk } from '../../src/runtime/node/disk.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { storeParts, testBlob, testBlock, testBytes } from '../kit/blocks.ts';

/** Runs the body with a file system of this size mounted on the folder. */
async function withTmpfs(sizeBytes: number, body: (root: string) => Promise<void>): Promise<void> {
  const root = tempFolder();
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${sizeBytes}`, 'tmpfs', root]);
  try {
    await body(root);
  } finally {
    execFileSync('umount', [root]);
  }
}

describeWith('DiskStore on a real small disk', [needs.root, needs.program('mount')], () => {
  it('DiskStore says of a full disk that it takes no blocks, and when it does', async () => {
    await withTmpfs(16 * BLOCK_SIZE_BYTES, async (root) => {
      const values: Record<string, number> = {};
      const metrics: Metrics = {
        ...silentMetrics,
        gauge: ({ name }) => ({ set: (_, value) => void (values[name] = value) }),
      };
      const parts = { ...storeParts(new NodeDisk({ root })), metrics };
      const store = new DiskStore(parts, { freeBytesMin: 8 * BLOCK_SIZE_BYTES });
      const filler = join(root, 'filler');
      writeFileSync(filler, Buffer.alloc(10 * BLOCK_SIZE_BYTES));
      await store.start();
      expect(values['xylem_store_writes_failing']).toBe(1);
      expect(store.stats().writeTrouble).toBe('the disk is full');
      rmSync(filler);
      await store.stop();
      await store.start();
      expect(values['xylem_store_writes_failing']).toBe(0);
      expect(store.stats().writeTrouble).toBeUndefined();
      await store.stop();
    });
  });

  it('DiskStore still serves blocks when the disk is full or turns read-only', async () => {
    await withTmpfs(4 * BLOCK_SIZE_BYTES, async (root) => {
      const store = new DiskStore(storeParts(new NodeDisk({ root })), { freeBytesMin: 0 });
      await store.start();
      const blob = testBlob(1, 8 * BLOCK_SIZE_BYTES);
      const results: string[] = [];
      for (let i = 0; i < 8; i++) {
        const putting = store.put(blob, blockIndex(i), testBlock(blob, blockIndex(i)));
        results.push(
          await putting.then(
            () => 'kept',
            (error) => error.code,
          ),
        );
      }
      // The version, the records and the folders take the space of the fourth block.
      expect(results).toEqual([...Array(3).fill('kept'), ...Array(5).fill('no-space')]);
      expect(store.blocksOf(blob.digest)).toEqual([0, 1, 2]);
      await store.stop();

      await store.start();
      execFileSync('mount', ['-o', 'remount,ro', root]);
      const refused = store.put(blob, blockIndex(3), testBlock(blob, blockIndex(3)));
      await expect(refused).rejects.toMatchObject({ code: 'read-only' });
      const found = await store.get(blob, blockIndex(1));
      expect(Buffer.compare(found!.payload.bytes, testBytes(blob, blockIndex(1)))).toBe(0);
      found?.payload.release();
      execFileSync('mount', ['-o', 'remount,rw', root]);
      await store.stop();
    });
  });
});
