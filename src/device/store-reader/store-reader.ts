import { BLOCK_SIZE_BYTES } from '../../image/block.ts';
import type { BytesAt } from '../../image/byte-source.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Codec, Hash } from '../../runtime/codec.ts';
import { BlockMemory } from './block-memory.ts';
import { HeldBlob, type HeldBlobInit } from './held-blob.ts';
import { OpenFiles } from './open-files.ts';
import type { SharedFiles } from './shared-files.ts';
import { StoreTrust } from './store-trust.ts';

interface StoreReaderComponents {
  readonly clock: Pick<Clock, 'nowMs' | 'wallMs'>;
  readonly codec: Pick<Codec, 'crc32c'>;
  readonly hash: Pick<Hash, 'blake3'>;
  readonly shared: SharedFiles;
}

/** A store, and what is read of it. */
export interface StoreReaderInit {
  /** Folder of the store. */
  readonly dir: string;
  /** What these keys have attested is not read, unless its image brings the digests. */
  readonly untrustedSigners: readonly Uint8Array[];
  readonly blobs: readonly Omit<HeldBlobInit, 'number'>[];
}

/**
 * Reads blobs from the files of a store that another process, or another thread, writes. It only
 * reads, and never waits for the writer. What is not there, damaged, torn or unreadable is a miss.
 *
 * A block is used once its record was found (CRC, index, length, flags, blob and size), who vouches
 * for it is believed, and its bytes were read and have the BLAKE3 of the record. After that its
 * pieces are read alone, and its record is looked at once a second. No interleaving with the writer
 * gives a wrong byte:
 *
 * - **Put**: the store writes the bytes, then the record. So a record is there after its bytes, and
 *   one of an earlier put of other bytes has another BLAKE3: a miss.
 * - **Drop**: the record is erased, the bytes stay. They are read for a second more at most.
 * - **Put after a drop** writes over bytes that may be read meanwhile. Blocks are named by what
 *   they hold, so old and new bytes are the same, in any mixture. They differ when the old ones had
 *   rotted or were attested wrongly: a piece that mixes both fails its own checksum, and at the
 *   next look the record names another BLAKE3, so that the block is checked as a new one.
 * - **Eviction** erases the records of a group and unlinks its data file. An open file keeps its
 *   bytes, which are right, until `SharedFiles.sweep()` closes it. With its last group a blob loses
 *   its folder: before each look it is asked whether the file of records is still linked.
 * - **A group that comes back** has a new file. While the old one is open, its bytes are read. A
 *   file that is opened anew has the identity (device, inode, birth) of the one before, or nothing
 *   of its group counts as checked.
 * - **Another size**: the store removes the folder. The CRCs of records of another size fit in no
 *   place: a miss.
 * - **Distrust**: nothing is read of a blob that the file `distrusted` names, unless its image
 *   brings the digests. That file is looked at once a second.
 * - **Loss of power**: a record may be left without its bytes. Their BLAKE3 is another one: a miss.
 * - **Rot** after a block was checked: pieces carry checksums of their own (`HeldBlobInit.by`), and
 *   other blobs are read in whole blocks, which stay in memory.
 * - **Another format**: with another text in `version` nothing is read.
 */
export class StoreReader {
  /** The bytes of each blob at an offset, as far as the store has them. */
  readonly sources: readonly BytesAt[];
  readonly #blobs: readonly HeldBlob[];
  readonly #files: OpenFiles;
  #lastBlob: HeldBlob | undefined;
  #lastOffset = 0;

  constructor(components: StoreReaderComponents, init: StoreReaderInit) {
    const { shared } = components;
    this.#files = new OpenFiles(components);
    const parts = {
      ...components,
      dir: init.dir,
      files: this.#files,
      trust: new StoreTrust(init),
      memory: new BlockMemory(shared),
      given: new Uint8Array(BLOCK_SIZE_BYTES),
      checked: new Uint8Array(BLOCK_SIZE_BYTES),
    };
    this.#blobs = init.blobs.map((blob, number) => new HeldBlob(parts, { ...blob, number }));
    this.sources = this.#blobs.map((blob) => (offset, length) => {
      this.#lastBlob = blob;
      this.#lastOffset = offset;
      return blob.bytesAt(offset, length);
    });
  }

  /** Reads of files so far. */
  get fileReads(): number {
    return this.#files.reads;
  }

  /** What a source gave last fails its own checksum: that block is a miss until it is checked. */
  spoiled(): void {
    this.#lastBlob?.spoiled(this.#lastOffset);
  }
}
