import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { MemoryStore } from '../../../src/blockstore/memory-store.ts';
import { NO_ATTESTATION } from '../../../src/image/attestation.ts';
import { BLOCK_SIZE_BYTES, blockIndex, type BlobRef } from '../../../src/image/block.ts';
import { parseDigest, type Digest } from '../../../src/image/digest.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { silentMetrics, type Metrics } from '../../../src/runtime/metrics.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { WholeBlobCheck } from '../../../src/transfer/drive/whole-blob-check.ts';
import { defined } from '../../../src/util/assert.ts';
import { PooledBytes } from '../../../src/util/buffer-pool.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

const BYTES = new Uint8Array(2 * BLOCK_SIZE_BYTES + 100).map((_, i) => i * 7);
const HEX = createHash('sha256').update(BYTES).digest('hex');

async function run(
  hex: string,
  contentOf = (key: Digest): Digest => key,
): Promise<{ result: string; store: MemoryStore; bad: string[] }> {
  const store = new MemoryStore();
  await store.start();
  const bad: string[] = [];
  const result = Promise.withResolvers<string>();
  const metrics: Metrics = {
    ...silentMetrics,
    counter: () => ({ inc: (labels) => result.resolve(labels['result'] ?? '') }),
  };
  const parts = { store, hash: new NodeHash(), clock: new ManualClock({ sleeps: 'pass' }) };
  const check = new WholeBlobCheck(
    { ...parts, logger: silentLogger, metrics },
    { contentOf, onBad: (digest) => bad.push(digest) },
  );
  const digest = defined(parseDigest(`sha256:${hex}`), 'a digest');
  const blob: BlobRef = { digest, sizeBytes: BYTES.length };
  for (const i of [2, 0, 1]) {
    const start = i * BLOCK_SIZE_BYTES;
    const payload = PooledBytes.unpooled(BYTES.subarray(start, start + BLOCK_SIZE_BYTES));
    await store.put(blob, blockIndex(i), { payload, attestation: NO_ATTESTATION });
    check.stored(blob);
  }
  const outcome = await result.promise;
  await check.stop();
  return { result: outcome, store, bad };
}

describe('WholeBlobCheck', () => {
  it('WholeBlobCheck.stored() keeps a blob whose content matches its digest', async () => {
    const { result, store, bad } = await run(HEX);
    expect(result).toBe('good');
    expect(store.stats().blockCount).toBe(3);
    expect(bad).toEqual([]);
  });

  it('WholeBlobCheck.stored() drops all blocks of a blob whose content differs', async () => {
    const { result, store, bad } = await run('0'.repeat(64));
    expect(result).toBe('bad');
    expect(store.stats().blockCount).toBe(0);
    expect(bad).toEqual([`sha256:${'0'.repeat(64)}`]);
  });

  it('WholeBlobCheck.stored() holds a blob with a key against what was asked for', async () => {
    const digest = `sha256:${HEX}` as Digest;
    expect((await run('0'.repeat(64), () => digest)).result).toBe('good');
    const other = `sha256:${'1'.repeat(64)}` as Digest;
    const { result, bad } = await run('0'.repeat(64), () => other);
    expect([result, bad]).toEqual(['bad', [`sha256:${'0'.repeat(64)}`]]);
  });
});
