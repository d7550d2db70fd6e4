import { createCipheriv, createHash } from 'node:crypto';
import type { BlobRef } from '../../src/image/block.ts';
import { parseDigest } from '../../src/image/digest.ts';
import { defined } from '../../src/util/assert.ts';

const AES_BLOCK_BYTES = 16;

/**
 * A blob whose name decides its bytes, so that any range can be generated again instead of kept:
 * AES-CTR over zeros.
 */
export class TruthBlob {
  readonly ref: BlobRef;
  readonly #key: Uint8Array;

  constructor(name: string, sizeBytes: number) {
    this.#key = createHash('sha256').update(name).digest();
    const hex = createHash('sha256').update(this.#stream(0, sizeBytes)).digest('hex');
    this.ref = { digest: defined(parseDigest(`sha256:${hex}`), 'a digest'), sizeBytes };
  }

  bytes(offset: number, length: number): Uint8Array {
    const skip = offset % AES_BLOCK_BYTES;
    return this.#stream((offset - skip) / AES_BLOCK_BYTES, skip + length).subarray(skip);
  }

  #stream(firstBlock: number, length: number): Uint8Array {
    const counter = Buffer.alloc(AES_BLOCK_BYTES);
    counter.writeBigUInt64BE(BigInt(firstBlock), 8);
    return createCipheriv('aes-256-ctr', this.#key, counter).update(Buffer.alloc(length));
  }
}
