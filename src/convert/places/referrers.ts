import type { Digest } from '../../image/digest.ts';
import { INDEX_MEDIA_TYPES } from '../../image/manifest.ts';
import { readParts, type NamedContent, type StoredManifest } from './manifest-parts.ts';

/** The referrers in such an index: all of them, or those of one type. */
export function referrersIn(
  index: Omit<StoredManifest, 'mediaType'>,
  artifactType: string | undefined,
): readonly NamedContent[] {
  const { manifests } = readParts(index);
  return manifests.filter(
    (each) => artifactType === undefined || each.artifactType === artifactType,
  );
}

/** The index without a referrer; undefined when it does not list it. */
export function withoutReferrer(
  index: StoredManifest | undefined,
  digest: Digest,
): Uint8Array | undefined {
  const listed = index === undefined ? [] : readParts(index).manifests;
  const manifests = listed.filter((each) => each.digest !== digest);
  return manifests.length === listed.length ? undefined : encodeList(manifests);
}

/** The index with one more referrer; undefined when it lists that already. */
export function withReferrer(
  index: StoredManifest | undefined,
  { mediaType, digest, bytes }: StoredManifest,
): Uint8Array | undefined {
  const listed = index === undefined ? [] : readParts(index).manifests;
  if (listed.some((each) => each.digest === digest)) return undefined;
  const { artifactType, annotations } = readParts({ bytes, digest });
  const size = bytes.length;
  const entry = { mediaType, digest, size, ...(artifactType && { artifactType }), annotations };
  return encodeList([...listed, entry]);
}

/** An index that lists these referrers. */
function encodeList(manifests: readonly unknown[]): Uint8Array {
  const list = { schemaVersion: 2, mediaType: INDEX_MEDIA_TYPES[0], manifests };
  return new TextEncoder().encode(JSON.stringify(list));
}
