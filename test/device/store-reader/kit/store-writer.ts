/**
 * Changes a store at random, several changes at a time, while others read its files:
 * `store-writer.ts FOLDER SEED CHANGES`. Its quota is below what it puts.
 */
import { DiskStore } from '../../../../src/blockstore/disk-store.ts';
import { blockCount, blockIndex, BLOCK_SIZE_BYTES } from '../../../../src/image/block.ts';
import { NodeDisk } from '../../../../src/runtime/node/disk.ts';
import { SeededRandom } from '../../../../src/sim/seeded-random.ts';
import { defined } from '../../../../src/util/assert.ts';
import { PooledBytes } from '../../../../src/util/buffer-pool.ts';
import { storeParts } from '../../../kit/blocks.ts';
import { WRITTEN, writtenBytes } from './written-blobs.ts';

const [root = '', seed = '', changes = ''] = process.argv.slice(2);
const random = new SeededRandom(`changes ${seed}`);
const attestation = { signer: new Uint8Array(32).fill(1), signature: new Uint8Array(164).fill(2) };

function openStore(): DiskStore {
  const disk = new NodeDisk({ root });
  return new DiskStore(storeParts(disk), { quotaBytes: 100 * BLOCK_SIZE_BYTES });
}

async function change(store: DiskStore): Promise<void> {
  const blob = defined(WRITTEN[random.below(WRITTEN.length)], 'a blob');
  const index = blockIndex(random.below(blockCount(blob.sizeBytes)));
  const kind = random.below(100);
  if (kind === 0) return store.resize(blob);
  if (kind < 3) return void (await store.gc({ targetBytes: random.below(100) * BLOCK_SIZE_BYTES }));
  if (kind < 20) return store.drop(blob.digest, index);
  const payload = PooledBytes.unpooled(writtenBytes(blob, index));
  await store.put(blob, index, { payload, attestation });
}

let store = openStore();
await store.start();
for (let done = 0; done < Number(changes); done += 4) {
  // What another size, the quota or the queue refuses is left out.
  await Promise.allSettled(Array.from({ length: 4 }, () => change(store)));
  if (random.below(100) > 0) continue;
  await store.stop();
  store = openStore();
  await store.start();
}
await store.stop();
