import type { BlobOrigin, BlobRef } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import { readObject } from '../image/manifest-form.ts';
import { MANIFEST_SIZE_BYTES_MAX, parseManifest } from '../image/manifest.ts';
import { defined } from '../util/assert.ts';
import { RegistryError } from './errors.ts';
import type { FetchedManifest } from './manifest-reader.ts';
import {
  candidatesFor,
  fitsPlatform,
  isIndex,
  noPlatformError,
  platformIn,
  type Platform,
} from './platform.ts';
import { parseReference } from './reference.ts';

/** Indexes within indexes that are followed. One is usual. */
const INDEX_DEPTH_MAX = 3;

/** Entries of an index without a platform whose configs are looked at. */
const UNNAMED_MAX = 8;

interface Components {
  readonly manifest: (origin: BlobOrigin, tagOrDigest: string) => Promise<FetchedManifest>;
  readonly blob: (blob: BlobRef & { readonly origin: BlobOrigin }) => Promise<Uint8Array>;
}

/**
 * The manifest of an image for a host of a platform; an index leads to the one for it. Of entries
 * that name no platform the configs tell it, where there are several. Rejects with RegistryError.
 */
export async function resolveImage(
  components: Components,
  reference: string,
  platform: Platform,
): Promise<FetchedManifest> {
  const { registry, repository, tag, digest } = parseReference(reference);
  const origin = { registry, repository };
  const name = defined(digest ?? tag, 'a reference has a tag or a digest');
  let found = await components.manifest(origin, name);
  for (let depth = 0; isIndex(found); depth++) {
    if (depth === INDEX_DEPTH_MAX) {
      const what = `${reference} has indexes within indexes, more than ${INDEX_DEPTH_MAX} deep`;
      throw new RegistryError(what, { code: 'no-platform' });
    }
    const { bytes } = found;
    const { best, unnamed, count } = candidatesFor(bytes, platform, { reference, isHost: true });
    const chosen = best ?? (count === 1 ? unnamed[0] : undefined);
    const next =
      chosen === undefined
        ? await firstMadeFor(components, platform, origin, unnamed)
        : await components.manifest(origin, chosen);
    if (next === undefined) throw noPlatformError(bytes, platform, reference);
    found = next;
  }
  return found;
}

async function firstMadeFor(
  components: Components,
  platform: Platform,
  origin: BlobOrigin,
  digests: readonly Digest[],
): Promise<FetchedManifest | undefined> {
  for (const digest of digests.slice(0, UNNAMED_MAX)) {
    const found = await components.manifest(origin, digest);
    if (isIndex(found)) continue;
    const { config } = parseManifest(found.bytes);
    if (config.size > MANIFEST_SIZE_BYTES_MAX) continue;
    const bytes = await components.blob({
      ...{ digest: config.digest, origin },
      sizeBytes: config.size,
    });
    if (fitsPlatform(platformIn(readObject(bytes)), platform)) return found;
  }
  return undefined;
}
