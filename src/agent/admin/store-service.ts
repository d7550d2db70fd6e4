import type { BlobUsage, BlockStore, Evicted } from '../../blockstore/store.ts';
import { parseDigest, type Digest } from '../../image/digest.ts';
import { type ResolvedImage, blobsOf } from '../../image/manifest.ts';
import type { StoreService } from './services.ts';

/** The store as the admin endpoint changes it: pins of blobs, and of the layers of images. */
export class StoreAdmin implements StoreService {
  readonly #store: BlockStore;
  readonly #resolve: (reference: string) => Promise<ResolvedImage>;

  constructor(components: {
    store: BlockStore;
    /** Finds the manifest of `host[:port]/name:tag`. */
    resolve: (reference: string) => Promise<ResolvedImage>;
  }) {
    this.#store = components.store;
    this.#resolve = components.resolve;
  }

  usage(): readonly BlobUsage[] {
    return this.#store.usage();
  }

  async pin(what: string): Promise<readonly Digest[]> {
    const digests = await this.#digestsOf(what);
    for (const digest of digests) await this.#store.pin(digest);
    return digests;
  }

  async unpin(what: string): Promise<readonly Digest[]> {
    const digests = await this.#digestsOf(what);
    for (const digest of digests) await this.#store.unpin(digest);
    return digests;
  }

  gc(targetBytes: number | undefined): Promise<Evicted> {
    return this.#store.gc(targetBytes === undefined ? {} : { targetBytes });
  }

  async #digestsOf(what: string): Promise<readonly Digest[]> {
    const digest = parseDigest(what);
    if (digest !== undefined) return [digest];
    const image = await this.#resolve(what.replace(/^docker:\/\//, ''));
    return blobsOf(image.manifest).map((blob) => blob.digest);
  }
}
