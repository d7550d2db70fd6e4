import { DiskStore } from '../../../src/blockstore/disk-store.ts';
import {
  blockCount,
  blockIndex,
  BLOCK_SIZE_BYTES,
  type BlobRef,
} from '../../../src/image/block.ts';
import { NodeDisk } from '../../../src/runtime/node/disk.ts';
import { PooledBytes } from '../../../src/util/buffer-pool.ts';
import { storeParts } from '../../kit/blocks.ts';

const ATTESTATION = { signer: new Uint8Array(32).fill(1), signature: new Uint8Array(164).fill(2) };

/** Puts blocks of a blob into a new store in the folder: those that `isHeld`, or all. */
export async function storeBlob(
  root: string,
  blob: BlobRef,
  bytes: Uint8Array,
  isHeld: (index: number) => boolean = () => true,
): Promise<void> {
  const store = new DiskStore(storeParts(new NodeDisk({ root })));
  await store.start();
  for (let i = 0; i < blockCount(blob.sizeBytes); i++) {
    if (!isHeld(i)) continue;
    const part = bytes.subarray(i * BLOCK_SIZE_BYTES, (i + 1) * BLOCK_SIZE_BYTES);
    const payload = PooledBytes.unpooled(part);
    await store.put(blob, blockIndex(i), { payload, attestation: ATTESTATION });
  }
  await store.stop();
}
