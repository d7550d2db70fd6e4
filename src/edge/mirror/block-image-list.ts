import { parseDigest, type Digest } from '../../image/digest.ts';
import { INDEX_MEDIA_TYPES } from '../../image/manifest.ts';
import type { Referrer } from '../../registry/referrers.ts';
import type { KeptManifest } from './manifest-cache.ts';

/** What the list of the block images of a manifest is asked for by, beside tags and digests. */
const LIST_PREFIX = 'block-images:';

/** The reference of the list of the block images of a manifest. */
export function listReference(digest: Digest): string {
  return LIST_PREFIX + digest;
}

/** The manifest that such a reference is about; undefined for a tag or a digest. */
export function listedFor(reference: string): Digest | undefined {
  if (!reference.startsWith(LIST_PREFIX)) return undefined;
  return parseDigest(reference.slice(LIST_PREFIX.length));
}

/** The list, as an index. */
export function encodeList(manifests: readonly Referrer[]): Omit<KeptManifest, 'digest'> {
  const mediaType = INDEX_MEDIA_TYPES[0];
  const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType, manifests }));
  return { mediaType, bytes };
}
