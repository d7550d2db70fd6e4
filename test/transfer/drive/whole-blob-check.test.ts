import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { MemoryStore } from '../../../src/blockstore/memory-store.ts';
import { NO_ATTESTATION } from '../../../src/image/attestation.ts';
import { BLOCK_SIZE_BYTES, blockIndex, type BlobRef } from '../../../src/image/block.ts';
import { parseDigest } from '../../../src/image/digest.ts';
import type { SignedClaim } from '../../../src/image/signed-claim.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { silentMetrics, type Metrics } from '../../../src/runtime/metrics.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { WholeBlobCheck } from '../../../src/transfer/drive/whole-blob-check.ts';
import { defined } from '../../../src/util/assert.ts';
import { PooledBytes } from '../../../src/util/buffer-pool.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

const BYTES = new Uint8Array(2 * BLOCK_SIZE_BYTES + 100).map((_, i) => i * 7);
const HEX = createHash('sha256').update(BYTES).digest('hex');

interface Outcome {
  readonly result: string;
  readonly store: MemoryStore;
  readonly bad: { readonly blob: BlobRef; readonly claims: readonly SignedClaim[] }[];
}

/** Stores a blob whose blocks have the key, and whose content is to have the digest. */
async function run(hex: string, keyHex = hex): Promise<Outcome> {
  const store = new MemoryStore();
  await store.start();
  const bad: Outcome['bad'] = [];
  const result = Promise.withResolvers<string>();
  const metrics: Metrics = {
    ...silentMetrics,
    counter: () => ({ inc: (labels) => result.resolve(labels['result'] ?? '') }),
  };
  const parts = { store, hash: new NodeHash(), clock: new ManualClock({ sleeps: 'pass' }) };
  const check = new WholeBlobCheck(
    { ...parts, logger: silentLogger, metrics },
    {
      onBad: async (found, claims) => {
        bad.push({ blob: found, claims });
        const { digest: key } = found;
        for (const index of store.blocksOf(key)) await store.drop(key, index);
      },
    },
  );
  const content = defined(parseDigest(`sha256:${hex}`), 'a digest');
  const digest = defined(parseDigest(`sha256:${keyHex}`), 'a digest');
  const blob: BlobRef = { digest, sizeBytes: BYTES.length };
  for (const i of [2, 0, 1]) {
    const start = i * BLOCK_SIZE_BYTES;
    const payload = PooledBytes.unpooled(BYTES.subarray(start, start + BLOCK_SIZE_BYTES));
    await store.put(blob, blockIndex(i), { payload, attestation: NO_ATTESTATION });
    check.stored(blob, content);
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

  it('WholeBlobCheck.stored() holds a doubtful source against its digest alone', async () => {
    const { result, store, bad } = await run(HEX, '12'.repeat(32));
    expect(result).toBe('good');
    expect(store.stats().blockCount).toBe(3);
    expect(bad).toEqual([]);
  });

  it('WholeBlobCheck.stored() drops all blocks of a blob whose content differs', async () => {
    const { result, store, bad } = await run('0'.repeat(64));
    expect(result).toBe('bad');
    expect(store.stats().blockCount).toBe(0);
    const [{ blob, claims }] = bad as [Outcome['bad'][0]];
    expect(blob.digest).toBe(`sha256:${'0'.repeat(64)}`);
    const last = new NodeHash().blake3(BYTES.subarray(2 * BLOCK_SIZE_BYTES));
    expect(claims.map(({ index }) => index)).toEqual([0, 1, 2]);
    expect(claims[2]?.blockDigest).toEqual(last);
  });
});
