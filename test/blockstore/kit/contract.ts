import { describe, expect, it } from 'vitest';
import { BLOCK_SIZE_BYTES, blockIndex, type BlockIndex } from '../../../src/image/block.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import type { BlockStore } from '../../../src/blockstore/store.ts';
import { PooledBytes } from '../../../src/util/buffer-pool.ts';
import { testBlob, testBlock, testBytes } from '../../kit/blocks.ts';

/**
 * A kind of store. `open()` gives a new empty store, not started; `reopen()` gives the same store
 * for its next run.
 */
export interface StoreRig {
  open(): { store: BlockStore; reopen: () => BlockStore };
}

const blob = testBlob(1, 3 * BLOCK_SIZE_BYTES + 100);
const [first, last, beyond] = [blockIndex(0), blockIndex(3), blockIndex(4)];

/** The contract of every BlockStore, whatever it keeps its blocks in. */
export function describeBlockStore(name: string, rig: StoreRig): void {
  describe(`${name} as a BlockStore`, () => {
    const started = async (): Promise<BlockStore> => {
      const { store } = rig.open();
      await store.start();
      return store;
    };

    it('BlockStore.get() gives back what put() took, with its attestation', async () => {
      const store = await started();
      for (const index of [last, first]) {
        const block = testBlock(blob, index);
        await store.put(blob, index, block);
        block.payload.release();
        const found = await store.get(blob, index);
        expect(Buffer.compare(found!.payload.bytes, testBytes(blob, index))).toBe(0);
        expect(found?.attestation).toEqual(block.attestation);
        found?.payload.release();
      }
      expect(store.blobs()).toEqual([blob]);
      expect(store.blocksOf(blob.digest)).toEqual([first, last]);
      expect(store.stats()).toEqual({
        blobCount: 1,
        blockCount: 2,
        sizeBytes: BLOCK_SIZE_BYTES + 100,
      });
      await store.stop();
    });

    it('BlockStore.has() is false until put() resolved and after drop() was called', async () => {
      const store = await started();
      const putting = store.put(blob, first, testBlock(blob, first));
      await putting;
      expect(store.has(blob.digest, first)).toBe(true);
      expect(store.has(blob.digest, last)).toBe(false);
      const dropping = store.drop(blob.digest, first);
      expect(store.has(blob.digest, first)).toBe(false);
      await dropping;
      expect(await store.get(blob, first)).toBeUndefined();
      expect(store.stats()).toEqual({ blobCount: 0, blockCount: 0, sizeBytes: 0 });
      expect(store.blobs()).toEqual([]);
      await store.stop();
    });

    it('BlockStore.get() misses blocks never put', async () => {
      const store = await started();
      expect(await store.get(blob, first)).toBeUndefined();
      await store.put(blob, first, testBlock(blob, first));
      expect(await store.get(blob, last)).toBeUndefined();
      expect(await store.get(blob, beyond)).toBeUndefined();
      expect(store.has(blob.digest, beyond)).toBe(false);
      expect(store.blocksOf(testBlob(2, 1).digest)).toEqual([]);
      await store.drop(blob.digest, last);
      await store.drop(testBlob(2, 1).digest, first);
      await store.stop();
    });

    it('BlockStore.put() retains the payload, and a drop releases it', async () => {
      const store = await started();
      const block = testBlock(blob, first);
      const putting = store.put(blob, first, block);
      block.payload.release();
      await putting;
      const found = await store.get(blob, first);
      await store.drop(blob.digest, first);
      expect(Buffer.compare(found!.payload.bytes, testBytes(blob, first))).toBe(0);
      found?.payload.release();
      await store.stop();
    });

    it('BlockStore.put() does nothing for a block that is present or being put', async () => {
      const store = await started();
      const other = {
        payload: PooledBytes.unpooled(new Uint8Array(BLOCK_SIZE_BYTES)),
        attestation: testBlock(blob, last).attestation,
      };
      const puts = [store.put(blob, first, testBlock(blob, first)), store.put(blob, first, other)];
      await Promise.all(puts);
      await store.put(blob, first, other);
      const found = await store.get(blob, first);
      expect(found?.attestation).toEqual(testBlock(blob, first).attestation);
      found?.payload.release();
      expect(store.stats().blockCount).toBe(1);
      await store.stop();
    });

    it('BlockStore.put() refuses blocks that the blob cannot have', async () => {
      const store = await started();
      const refused = { code: 'invalid-block' };
      await expect(store.put(blob, last, testBlock(blob, first))).rejects.toMatchObject(refused);
      await expect(store.put(blob, beyond, testBlock(blob, first))).rejects.toMatchObject(refused);
      const negative = store.put(blob, blockIndex(-1), testBlock(blob, first));
      await expect(negative).rejects.toMatchObject(refused);
      expect(store.stats().blobCount).toBe(0);
      await store.stop();
    });

    it('BlockStore refuses a blob that it keeps with another size', async () => {
      const store = await started();
      await store.put(blob, first, testBlock(blob, first));
      const liar = { digest: blob.digest, sizeBytes: blob.sizeBytes + 1 };
      const refused = { detail: { code: 'size-mismatch', knownSizeBytes: blob.sizeBytes } };
      await expect(store.put(liar, last, testBlock(liar, last))).rejects.toMatchObject(refused);
      await expect(store.get(liar, first)).rejects.toMatchObject(refused);
      expect(store.blobs()).toEqual([blob]);
      await store.stop();
    });

    it('BlockStore.resize() replaces what a wrong size left, also over a restart', async () => {
      const { store, reopen } = rig.open();
      await store.start();
      const liar = { digest: blob.digest, sizeBytes: 3 * blob.sizeBytes };
      await Promise.all([first, last].map((each) => store.put(liar, each, testBlock(liar, each))));
      await store.stop();
      const next = reopen();
      await next.start();
      await expect(next.put(blob, first, testBlock(blob, first))).rejects.toThrow();
      await next.resize(liar);
      expect(next.blocksOf(blob.digest)).toEqual([first, last]);
      await next.resize(blob);
      expect(next.blobs()).toEqual([]);
      await next.put(blob, first, testBlock(blob, first));
      expect(next.blobs()).toEqual([blob]);
      await next.stop();
      const third = reopen();
      await third.start();
      expect(third.blobs()).toEqual([blob]);
      await third.stop();
    });

    it('BlockStore.keepMatching() drops the blocks of other digests', async () => {
      const store = await started();
      const hash = new NodeHash();
      const digestOf = (index: BlockIndex) => hash.blake3(testBytes(blob, index));
      for (const index of [first, last]) {
        const block = { ...testBlock(blob, index), blockDigest: digestOf(index) };
        await store.put(blob, index, block);
      }
      await store.keepMatching(blob, (index, found) => {
        expect(Buffer.compare(found, digestOf(index))).toBe(0);
        return index === last;
      });
      expect(store.blocksOf(blob.digest)).toEqual([last]);
      await store.keepMatching(testBlob(9, 1), () => false);
      await store.keepMatching(blob, () => false);
      expect(store.blobs()).toEqual([]);
      await store.stop();
    });

    it('BlockStore changes of one block take effect in the order of the calls', async () => {
      const store = await started();
      const changes: Promise<void>[] = [];
      for (let round = 0; round < 5; round++) {
        changes.push(store.put(blob, first, testBlock(blob, first)));
        changes.push(store.drop(blob.digest, first));
      }
      changes.push(store.put(blob, first, testBlock(blob, first)));
      await Promise.all(changes);
      expect(store.has(blob.digest, first)).toBe(true);
      await store.drop(blob.digest, first);
      expect(store.stats()).toEqual({ blobCount: 0, blockCount: 0, sizeBytes: 0 });
      await store.stop();
    });

    it('BlockStore.start() finds the blocks of an earlier run', async () => {
      const { store, reopen } = rig.open();
      await store.start();
      const small = testBlob(2, 1);
      await store.put(blob, first, testBlock(blob, first));
      await store.put(blob, last, testBlock(blob, last));
      await store.put(small, first, testBlock(small, first));
      await store.drop(blob.digest, first);
      await store.stop();

      const next = reopen();
      await next.start();
      expect(next.blobs().toSorted((a, b) => (a.digest < b.digest ? -1 : 1))).toEqual([
        blob,
        small,
      ]);
      expect(next.blocksOf(blob.digest)).toEqual([last]);
      expect(next.stats()).toEqual({ blobCount: 2, blockCount: 2, sizeBytes: 101 });
      const found = await next.get(blob, last);
      expect(Buffer.compare(found!.payload.bytes, testBytes(blob, last))).toBe(0);
      found?.payload.release();
      await next.stop();
    });

    it('BlockStore.gc() keeps blobs for as long as they are pinned or mounted', async () => {
      const store = await started();
      const blobs = [1, 2, 3].map((number) => testBlob(number, BLOCK_SIZE_BYTES));
      const [plain, pinned, mounted] = blobs.map(({ digest }) => digest);
      for (const each of blobs) await store.put(each, first, testBlock(each, first));
      await store.pin(pinned!);
      store.retain([mounted!, plain!]);
      store.retain([mounted!]);
      store.release([mounted!, plain!]);
      expect(store.usage().find(({ digest }) => digest === mounted)).toMatchObject({
        sizeBytes: BLOCK_SIZE_BYTES,
        heldBytes: BLOCK_SIZE_BYTES,
        blockCount: 1,
        keep: 'mounted',
        mounted: true,
        pinned: false,
        lastUseMs: expect.any(Number),
      });
      expect(await store.gc()).toEqual({ blockCount: 0, sizeBytes: 0 });
      const freed = { blockCount: 1, sizeBytes: BLOCK_SIZE_BYTES };
      expect(await store.gc({ targetBytes: 0 })).toEqual(freed);
      expect(blobs.map(({ digest }) => store.has(digest, first))).toEqual([false, true, true]);
      expect(await store.get(blobs[0]!, first)).toBeUndefined();
      store.release([mounted!]);
      await store.unpin(pinned!);
      expect(await store.gc({ targetBytes: BLOCK_SIZE_BYTES })).toEqual(freed);
      expect(await store.gc({ targetBytes: 0 })).toEqual(freed);
      expect(store.stats()).toEqual({ blobCount: 0, blockCount: 0, sizeBytes: 0 });
      await store.put(blobs[0]!, first, testBlock(blobs[0]!, first));
      expect(store.has(plain!, first)).toBe(true);
      await store.stop();
    });

    it('BlockStore.pin() works for blobs without blocks yet, and over a restart', async () => {
      const { store, reopen } = rig.open();
      await store.start();
      await store.pin(blob.digest);
      await store.pin(blob.digest);
      expect(store.usage()).toEqual([
        {
          digest: blob.digest,
          heldBytes: 0,
          blockCount: 0,
          keep: 'pinned',
          pinned: true,
          mounted: false,
        },
      ]);
      await store.stop();
      const next = reopen();
      await next.start();
      await next.put(blob, first, testBlock(blob, first));
      expect(await next.gc({ targetBytes: 0 })).toEqual({ blockCount: 0, sizeBytes: 0 });
      expect(next.usage()).toMatchObject([{ keep: 'pinned', blockCount: 1 }]);
      await next.stop();
    });

    it('BlockStore holds nothing and refuses calls before start() and after stop()', async () => {
      const store = rig.open().store;
      const refusesAll = async (): Promise<void> => {
        const refused = { code: 'stopped' };
        await expect(store.put(blob, first, testBlock(blob, first))).rejects.toMatchObject(refused);
        await expect(store.get(blob, first)).rejects.toMatchObject(refused);
        await expect(store.drop(blob.digest, first)).rejects.toMatchObject(refused);
        await expect(store.pin(blob.digest)).rejects.toMatchObject(refused);
        await expect(store.unpin(blob.digest)).rejects.toMatchObject(refused);
        await expect(store.gc()).rejects.toMatchObject(refused);
        expect(store.usage()).toEqual([]);
        expect(store.has(blob.digest, first)).toBe(false);
        expect(store.blobs()).toEqual([]);
        expect(store.blocksOf(blob.digest)).toEqual([]);
        expect(store.stats()).toEqual({ blobCount: 0, blockCount: 0, sizeBytes: 0 });
      };
      await refusesAll();
      await store.stop();
      await store.start();
      const accepted = store.put(blob, first, testBlock(blob, first));
      await store.stop();
      await accepted;
      await refusesAll();
      await store.stop();
    });
  });
}
