import type { AttestedBlock } from '../../src/image/attested-block.ts';
import {
  blockLength,
  type BlobRef,
  type BlockIndex,
  BLOCK_SIZE_BYTES,
} from '../../src/image/block.ts';
import { parseDigest } from '../../src/image/digest.ts';
import { NodeCodec } from '../../src/runtime/node/codec.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import type { Disk } from '../../src/runtime/disk.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { silentMetrics } from '../../src/runtime/metrics.ts';
import { defined } from '../../src/util/assert.ts';
import { BufferPool, PooledBytes } from '../../src/util/buffer-pool.ts';

/** A blob whose digest starts with the number, two hex digits of it. */
export function testBlob(number: number, sizeBytes: number): BlobRef {
  const hex = number.toString(16).padStart(2, '0') + 'e7'.repeat(31);
  return { digest: defined(parseDigest(`sha256:${hex}`), 'a digest'), sizeBytes };
}

/** The bytes of the block of a test blob: blob and index decide them, and every word differs. */
export function testBytes(blob: BlobRef, index: BlockIndex): Uint8Array {
  const bytes = new Uint8Array(blockLength(blob.sizeBytes, index));
  const seed = Number.parseInt(blob.digest.slice(7, 9), 16) * 1_000_003 + index * 7919;
  const words = new Uint32Array(bytes.buffer, 0, Math.floor(bytes.length / 4));
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(seed + i, 2654435761);
  for (let i = words.length * 4; i < bytes.length; i++) bytes[i] = seed + i;
  return bytes;
}

/** The block as a peer would send it; the caller releases the payload. */
export function testBlock(blob: BlobRef, index: BlockIndex): AttestedBlock {
  return {
    payload: PooledBytes.unpooled(testBytes(blob, index)),
    attestation: {
      signer: new Uint8Array(32).fill(index + 1),
      signature: new Uint8Array(164).fill(index + 2),
    },
  };
}

/** Real parts for a DiskStore on this disk; the pool poisons returned buffers. */
export function storeParts(disk: Disk) {
  return {
    disk,
    clock: new SystemClock(),
    codec: new NodeCodec(),
    hash: new NodeHash(),
    pool: new BufferPool({ slabBytes: BLOCK_SIZE_BYTES, freeMax: 8, poison: true }),
    logger: silentLogger,
    metrics: silentMetrics,
  };
}
