import type { BlobRef } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import { ImageError } from '../../image/errors.ts';
import { LayerStack, type LayerStackLayout } from '../../image/layer-stack.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Codec, Hash } from '../../runtime/codec.ts';
import type { HeldBlobInit } from './held-blob.ts';
import { SharedFiles } from './shared-files.ts';
import { StoreReader, type StoreReaderInit } from './store-reader.ts';

/** What a thread needs to read an image from the store's files, as a message to it. */
export interface HeldImageInit extends StoreReaderInit {
  /** Where the bytes of the device lie in the blobs. */
  readonly layout: LayerStackLayout;
  /** Memory of its `SharedFiles`. */
  readonly shared: SharedArrayBuffer;
}

/** A store whose files the threads of mounts read. */
export interface HeldStore {
  /** Its folder. */
  readonly dir: string;
  /** What these keys have attested is not read, unless its image brings the digests. */
  readonly untrustedSigners: readonly Uint8Array[];
  /** BLAKE3 of each block of a blob, where its image brings them. */
  digestsOf(digest: Digest): Uint8Array | undefined;
}

/** What a thread needs to read the disk of an image from a store. */
export function heldImage(
  store: HeldStore,
  disk: { readonly blobs: readonly BlobRef[]; readonly layout: LayerStackLayout },
): Omit<HeldImageInit, 'shared'> {
  const { dir, untrustedSigners } = store;
  const { layout } = disk;
  const blobs = disk.blobs.map((blob, i) => {
    const body = layout.bodies[i];
    const hasChecksums = body?.kind === 'zfile' && body.header.verify;
    const by: HeldBlobInit['by'] = hasChecksums ? 'pieces' : 'blocks';
    return { blob, by, digests: store.digestsOf(blob.digest) };
  });
  return { dir, untrustedSigners, layout, blobs };
}

/** Where the bytes of a read came from. */
export type HeldFrom = 'store' | 'memory';

/** The block device of an image, as far as the store's files hold it. */
export class HeldImage {
  readonly #stack: LayerStack;
  readonly #reader: StoreReader;
  readonly #shared: SharedFiles;

  constructor(
    components: {
      clock: Pick<Clock, 'nowMs' | 'wallMs'>;
      codec: Codec;
      hash: Pick<Hash, 'blake3'>;
    },
    init: HeldImageInit,
  ) {
    this.#shared = new SharedFiles(init.shared);
    this.#reader = new StoreReader({ ...components, shared: this.#shared }, init);
    this.#stack = LayerStack.ofLayout(components.codec, init.layout);
  }

  /**
   * Fills the target with the device's bytes from `offset` on, and says where they came from;
   * undefined when the store lacks some of them: the content of the target is then undefined.
   */
  readInto(target: Uint8Array, offset: number): HeldFrom | undefined {
    const before = this.#reader.fileReads;
    this.#shared.lock();
    try {
      if (!this.#stack.readInto(target, offset, this.#reader.sources)) return undefined;
      return this.#reader.fileReads === before ? 'memory' : 'store';
    } catch (error) {
      // Damaged on the disk, or in the image: the other way of reading tells these apart.
      if (!(error instanceof ImageError)) throw error;
      this.#reader.spoiled();
      return undefined;
    } finally {
      this.#shared.unlock();
    }
  }
}
