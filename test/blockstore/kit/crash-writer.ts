/**
 * Writes and drops blocks of two blobs forever, several at a time, and reports each finished one;
 * the test kills it.
 */
import { DiskStore } from '../../../src/blockstore/disk-store.ts';
import { BLOCK_SIZE_BYTES, blockCount, blockIndex } from '../../../src/image/block.ts';
import { NodeDisk } from '../../../src/runtime/node/disk.ts';
import { SystemRandom } from '../../../src/runtime/node/random.ts';
import { defined } from '../../../src/util/assert.ts';
import { storeParts, testBlob, testBlock } from '../../kit/blocks.ts';

const WRITERS = 4;

const random = new SystemRandom();
const blobs = [testBlob(1, 40 * BLOCK_SIZE_BYTES), testBlob(2, 25 * BLOCK_SIZE_BYTES + 1)];
const store = new DiskStore(
  storeParts(new NodeDisk({ root: defined(process.argv[2], 'a folder') })),
);
await store.start();

async function writeForever(): Promise<never> {
  for (;;) {
    const blob = defined(blobs[random.below(blobs.length)], 'a blob');
    const index = blockIndex(random.below(blockCount(blob.sizeBytes)));
    const name = `${blob.digest.slice(7, 9)}/${index}`;
    if (random.below(4) === 0) {
      process.stdout.write(`drop ${name}\n`);
      await store.drop(blob.digest, index);
    } else {
      await store.put(blob, index, testBlock(blob, index));
      process.stdout.write(`put ${name}\n`);
    }
  }
}
await Promise.all(Array.from({ length: WRITERS }, writeForever));
