import { blockLength, type BlockIndex } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import { defined } from '../util/assert.ts';
import type { SimBlob } from './workload.ts';

/**
 * Payload of a block in the simulated world: its name instead of its bytes. A genuine payload has
 * the registry's bytes and a root's attestation. Any other payload has other bytes, and its
 * attestation does not fit them.
 */
export interface SimBlock {
  readonly blob: SimBlob;
  readonly index: BlockIndex;
  readonly lengthBytes: number;
  readonly genuine: boolean;
}

/** The blocks of the world: one object per block, however many hosts have it. */
export class BlockLibrary {
  readonly #blobs = new Map<Digest, SimBlob>();
  readonly #blocks: SimBlock[][] = [];

  constructor(blobs: readonly SimBlob[]) {
    for (const blob of blobs) this.#blobs.set(blob.digest, blob);
  }

  blob(digest: Digest): SimBlob {
    return defined(this.#blobs.get(digest), 'a blob of this world');
  }

  block(blob: SimBlob, index: BlockIndex): SimBlock {
    const blocks = (this.#blocks[blob.number] ??= []);
    return (blocks[index] ??= {
      blob,
      index,
      lengthBytes: blockLength(blob.sizeBytes, index),
      genuine: true,
    });
  }

  /** The same block with wrong bytes. */
  corrupt(block: SimBlock): SimBlock {
    return { ...block, genuine: false };
  }
}
