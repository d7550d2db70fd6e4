import {
  appendFileSync,
  mkdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it, onTestFinished } from 'vitest';
import { DiskStore } from '../../../src/blockstore/disk-store.ts';
import {
  blobPaths,
  dataPath,
  DISTRUSTED_FILE,
  GROUP_BLOCKS,
  recordOffset,
  RECORD_BYTES,
  VERSION_FILE,
} from '../../../src/blockstore/layout.ts';
import type { HeldBlobInit } from '../../../src/device/store-reader/held-blob.ts';
import {
  blockCount,
  blockIndex,
  blockLength,
  BLOCK_SIZE_BYTES,
  type BlobRef,
} from '../../../src/image/block.ts';
import { NodeDisk } from '../../../src/runtime/node/disk.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { bytesEqual } from '../../../src/util/bytes.ts';
import { storeParts, testBlob, testBlock, testBytes } from '../../kit/blocks.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { openFilesBelow, openReader } from './kit/reader-rig.ts';

const blob = testBlob(1, 3 * BLOCK_SIZE_BYTES + 100);
const first = blockIndex(0);

async function startStore(root = tempFolder()): Promise<{ store: DiskStore; root: string }> {
  const store = new DiskStore(storeParts(new NodeDisk({ root })));
  await store.start();
  onTestFinished(() => store.stop());
  return { store, root };
}

async function putBlocks(store: DiskStore, into: BlobRef, indices: readonly number[]) {
  for (const index of indices.map(blockIndex)) await store.put(into, index, testBlock(into, index));
}

const allOf = ({ sizeBytes }: BlobRef): number[] => [...Array(blockCount(sizeBytes)).keys()];

function bytesOf(from: BlobRef, offset: number, length: number): Uint8Array {
  const whole = Buffer.concat(allOf(from).map((index) => testBytes(from, blockIndex(index))));
  return new Uint8Array(whole.subarray(offset, offset + length));
}

/** Changes one byte of a file. */
function spoil(path: string, at: number): void {
  const bytes = readFileSync(path);
  bytes[at] = (bytes[at] ?? 0) ^ 0x55;
  writeFileSync(path, bytes);
}

const MODES: readonly HeldBlobInit['by'][] = ['pieces', 'blocks'];

describe.each(MODES)('StoreReader by %s', (by) => {
  it('gives any range of what the store holds, and no other', async () => {
    const { store, root } = await startStore();
    await putBlocks(store, blob, [0, 1, 3]);
    const { read } = openReader(root, [blob], { by });
    const missing = { from: 2 * BLOCK_SIZE_BYTES, to: 3 * BLOCK_SIZE_BYTES };
    const range = fc.tuple(fc.nat(blob.sizeBytes - 1), fc.integer({ min: 1, max: 70_000 }));
    fc.assert(
      fc.property(range, ([offset, wish]) => {
        const length = Math.min(wish, blob.sizeBytes - offset);
        const isHeld = offset + length <= missing.from || offset >= missing.to;
        const got = read(offset, length);
        if (isHeld) expect(bytesEqual(got!, bytesOf(blob, offset, length))).toBe(true);
        else expect(got).toBeUndefined();
      }),
    );
  });

  it('gives what was put after a miss, and after a look nothing that was dropped', async () => {
    const { store, root } = await startStore();
    const { read, passTime } = openReader(root, [blob], { by });
    expect(read(0, 100)).toBeUndefined();
    await putBlocks(store, blob, [0, 1]);
    passTime(); // The folder was no store before.
    expect(read(0, 100)).toEqual(bytesOf(blob, 0, 100));
    await store.drop(blob.digest, first);
    passTime();
    expect(read(0, 100)).toBeUndefined();
    expect(read(BLOCK_SIZE_BYTES, 9)).toEqual(bytesOf(blob, BLOCK_SIZE_BYTES, 9));
    await putBlocks(store, blob, [0]);
    expect(read(0, 100)).toEqual(bytesOf(blob, 0, 100));
  });

  it('lets go of evicted files, and reads what comes back', async () => {
    const { store, root } = await startStore();
    await putBlocks(store, blob, allOf(blob));
    const { read, passTime, shared } = openReader(root, [blob], { by });
    expect(read(0, 100)).toEqual(bytesOf(blob, 0, 100));
    await store.gc({ targetBytes: 0 });
    const evicted = (): string[] =>
      openFilesBelow(root).filter((path) => path.endsWith(' (deleted)'));
    expect(evicted()).not.toEqual([]);
    shared.sweep();
    expect(evicted()).toEqual([]);
    passTime();
    expect(read(0, 100)).toBeUndefined();
    await putBlocks(store, blob, allOf(blob));
    expect(read(5, 100)).toEqual(bytesOf(blob, 5, 100));
    expect(evicted()).toEqual([]);
  });

  it('leaves the files of a mount that is reading open', async () => {
    const { store, root } = await startStore();
    await putBlocks(store, blob, allOf(blob));
    const { read, shared } = openReader(root, [blob], { by });
    shared.lock();
    read(0, 100);
    await store.gc({ targetBytes: 0 });
    const before = openFilesBelow(root);
    shared.sweep();
    expect(openFilesBelow(root)).toEqual(before);
    shared.unlock();
    shared.sweep();
    expect(openFilesBelow(root).filter((path) => path.endsWith(' (deleted)'))).toEqual([]);
  });

  it('gives nothing of a blob that the store has with another size', async () => {
    const { store, root } = await startStore();
    await putBlocks(store, blob, allOf(blob));
    const other = { digest: blob.digest, sizeBytes: blob.sizeBytes + 1 };
    const { read, passTime } = openReader(root, [other], { by });
    expect(read(0, 100)).toBeUndefined();
    await store.resize(other);
    await putBlocks(store, other, allOf(other));
    expect(read(0, 100)).toEqual(bytesOf(other, 0, 100));
    const old = openReader(root, [blob], { by });
    passTime();
    expect(old.read(0, 100)).toBeUndefined();
  });

  it('gives right bytes or none of damaged data', async () => {
    const { store, root } = await startStore();
    await putBlocks(store, blob, allOf(blob));
    await store.stop();
    const path = join(root, dataPath(blobPaths(blob.digest), 0));
    const sound = readFileSync(path);
    fc.assert(
      fc.property(fc.nat(sound.length - 1), (at) => {
        writeFileSync(path, sound);
        spoil(path, at);
        const damaged = Math.floor(at / BLOCK_SIZE_BYTES);
        const { read, shared } = openReader(root, [blob], { by });
        for (const index of allOf(blob)) {
          const offset = index * BLOCK_SIZE_BYTES;
          const got = read(offset, 64);
          if (index === damaged) expect(got).toBeUndefined();
          else expect(got).toEqual(bytesOf(blob, offset, 64));
        }
        shared.closeAll();
      }),
      { numRuns: 20 },
    );
  });

  it('gives right bytes or none of damaged records', async () => {
    const { store, root } = await startStore();
    await putBlocks(store, blob, allOf(blob));
    await store.stop();
    const path = join(root, blobPaths(blob.digest).records);
    const sound = readFileSync(path);
    fc.assert(
      fc.property(fc.nat(sound.length - 1), (at) => {
        writeFileSync(path, sound);
        spoil(path, at);
        const { read, shared } = openReader(root, [blob], { by });
        for (const index of allOf(blob)) {
          const from = recordOffset(blockIndex(index));
          const isDamaged = at >= from && at < from + RECORD_BYTES;
          const got = read(index * BLOCK_SIZE_BYTES, 64);
          if (isDamaged) expect(got).toBeUndefined();
          else expect(got).toEqual(bytesOf(blob, index * BLOCK_SIZE_BYTES, 64));
        }
        shared.closeAll();
      }),
      { numRuns: 60 },
    );
  });

  it('misses what files that were cut off, removed or replaced lack', async () => {
    const { store, root } = await startStore();
    await putBlocks(store, blob, allOf(blob));
    await store.stop();
    const paths = blobPaths(blob.digest);
    const data = join(root, dataPath(paths, 0));
    truncateSync(data, BLOCK_SIZE_BYTES + 1000);
    const { read, passTime } = openReader(root, [blob], { by });
    expect(read(0, 100)).toEqual(bytesOf(blob, 0, 100));
    expect(read(BLOCK_SIZE_BYTES, 100)).toBeUndefined();
    truncateSync(join(root, paths.records), recordOffset(first) + 10);
    passTime();
    expect(read(0, 100)).toBeUndefined();
    rmSync(join(root, paths.folder), { recursive: true });
    mkdirSync(join(root, paths.folder, 'records'), { recursive: true });
    passTime();
    expect(read(0, 100)).toBeUndefined();
  });

  it('gives nothing of a distrusted blob, unless its image brings the digests', async () => {
    const { store, root } = await startStore();
    await putBlocks(store, blob, allOf(blob));
    const hash = new NodeHash();
    const hashes = allOf(blob).map((index) => hash.blake3(testBytes(blob, blockIndex(index))));
    const plain = openReader(root, [blob], { by });
    const digested = openReader(root, [blob], { by, digests: Buffer.concat(hashes) });
    expect(plain.read(0, 9)).toEqual(bytesOf(blob, 0, 9));
    appendFileSync(join(root, DISTRUSTED_FILE), `${testBlob(2, 1).digest}\n${blob.digest}\n`);
    for (const { passTime } of [plain, digested]) passTime();
    expect(plain.read(0, 9)).toBeUndefined();
    expect(digested.read(0, 9)).toEqual(bytesOf(blob, 0, 9));
    rmSync(join(root, DISTRUSTED_FILE));
    plain.passTime();
    expect(plain.read(0, 9)).toEqual(bytesOf(blob, 0, 9));
  });

  it('gives nothing but what the digests of the image allow', async () => {
    const { store, root } = await startStore();
    await putBlocks(store, blob, allOf(blob));
    const hash = new NodeHash();
    const hashes = allOf(blob).map((index) => hash.blake3(testBytes(blob, blockIndex(index))));
    hashes[1] = hash.blake3(new Uint8Array(1));
    const { read } = openReader(root, [blob], { by, digests: Buffer.concat(hashes) });
    expect(read(0, 9)).toEqual(bytesOf(blob, 0, 9));
    expect(read(BLOCK_SIZE_BYTES, 9)).toBeUndefined();
  });

  it('gives nothing that an untrusted root has attested', async () => {
    const { store, root } = await startStore();
    await putBlocks(store, blob, allOf(blob));
    const untrustedSigners = [testBlock(blob, first).attestation.signer];
    const { read } = openReader(root, [blob], { by, untrustedSigners });
    expect(read(0, 9)).toBeUndefined();
    expect(read(BLOCK_SIZE_BYTES, 9)).toEqual(bytesOf(blob, BLOCK_SIZE_BYTES, 9));
  });

  it('gives nothing of a store of another version, or of no store', async () => {
    const { store, root } = await startStore();
    await putBlocks(store, blob, allOf(blob));
    const { read, passTime } = openReader(root, [blob], { by });
    expect(read(0, 9)).toEqual(bytesOf(blob, 0, 9));
    writeFileSync(join(root, VERSION_FILE), 'xylem-store 4\n');
    passTime();
    expect(read(0, 9)).toBeUndefined();
    expect(openReader(join(root, 'none'), [blob], { by }).read(0, 9)).toBeUndefined();
  });

  it('holds as many files open as it may, and no more', async () => {
    const { store, root } = await startStore();
    const large = testBlob(4, 6 * GROUP_BLOCKS * BLOCK_SIZE_BYTES);
    const groups = [0, 1, 2, 3, 4, 5];
    await putBlocks(
      store,
      large,
      groups.map((group) => group * GROUP_BLOCKS),
    );
    await store.stop();
    const { read, shared } = openReader(root, [large], { by, filesMax: 3, memoryBytesMax: 0 });
    const readAll = (): void => {
      for (const group of groups) {
        const index = blockIndex(group * GROUP_BLOCKS);
        expect(read(index * BLOCK_SIZE_BYTES, 64)).toEqual(testBytes(large, index).slice(0, 64));
        expect(openFilesBelow(root).length).toBeLessThanOrEqual(shared.filesMax);
      }
    };
    readAll();
    readAll();
    shared.setBounds({ filesMax: 2, memoryBytesMax: 0 });
    readAll();
    expect(openFilesBelow(root)).toHaveLength(2);
    shared.closeAll();
    expect(openFilesBelow(root)).toEqual([]);
  });
});

describe('StoreReader', () => {
  it('spoiled() makes the block of the last read a miss until it is checked again', async () => {
    const { store, root } = await startStore();
    await putBlocks(store, blob, allOf(blob));
    const { read, reader, passTime } = openReader(root, [blob], { by: 'pieces' });
    expect(read(0, 64)).toEqual(bytesOf(blob, 0, 64));
    spoil(join(root, dataPath(blobPaths(blob.digest), 0)), 10);
    reader.spoiled();
    expect(read(0, 64)).toBeUndefined();
    passTime();
    expect(read(0, 64)).toBeUndefined();
    spoil(join(root, dataPath(blobPaths(blob.digest), 0)), 10);
    passTime();
    expect(read(0, 64)).toEqual(bytesOf(blob, 0, 64));
  });

  it('gives pieces of a block without reading all of it again', async () => {
    const { store, root } = await startStore();
    await putBlocks(store, blob, allOf(blob));
    const { read, reader, passTime } = openReader(root, [blob], { by: 'pieces' });
    read(0, 64);
    const once = reader.fileReads;
    read(4096, 64);
    expect(reader.fileReads).toBe(once + 1);
    passTime(); // Its record is looked at, but the block is not hashed.
    read(8192, 64);
    expect(reader.fileReads).toBe(once + 3);
  });

  it('keeps whole blocks in memory, as many as it may', async () => {
    const { store, root } = await startStore();
    await putBlocks(store, blob, allOf(blob));
    const memoryBytesMax = 2 * BLOCK_SIZE_BYTES;
    const { read, reader } = openReader(root, [blob], { by: 'blocks', memoryBytesMax });
    const readsOf = (index: number): number => {
      const before = reader.fileReads;
      const offset = index * BLOCK_SIZE_BYTES;
      const length = Math.min(64, blockLength(blob.sizeBytes, blockIndex(index)));
      expect(read(offset, length)).toEqual(bytesOf(blob, offset, length));
      return reader.fileReads - before;
    };
    expect([0, 1, 0, 1].map(readsOf)).toEqual([2, 2, 0, 0]);
    expect([2, 1, 0].map(readsOf)).toEqual([2, 0, 2]);
  });
});
