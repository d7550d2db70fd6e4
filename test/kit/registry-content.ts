import { createHash } from 'node:crypto';
import { defined } from '../../src/util/assert.ts';
import { parseDigest, type Digest } from '../../src/image/digest.ts';
import { INDEX_MEDIA_TYPES, MANIFEST_MEDIA_TYPES } from '../../src/image/manifest.ts';

/** The sha256 digest of the bytes. */
export function digestOf(bytes: Uint8Array): Digest {
  const hex = createHash('sha256').update(bytes).digest('hex');
  return defined(parseDigest(`sha256:${hex}`), 'a sha256 is a digest');
}

/**
 * Puts a blob into a registry that any client may write to; `base` is `http://host:port/v2/name`.
 */
async function putBlob(base: string, bytes: Uint8Array): Promise<Digest> {
  const digest = digestOf(bytes);
  const begun = await fetch(`${base}/blobs/uploads/`, { method: 'POST' });
  const location = new URL(begun.headers.get('location') ?? '', base);
  location.searchParams.set('digest', digest);
  const headers = { 'content-type': 'application/octet-stream' };
  await expectCreated(await fetch(location, { method: 'PUT', body: Buffer.from(bytes), headers }));
  return digest;
}

/** Puts a manifest of one image with these layers, and tags it. */
export async function putImage(
  base: string,
  tag: string,
  layers: readonly Uint8Array[],
): Promise<{ readonly digest: Digest; readonly bytes: Uint8Array }> {
  const describe = async (bytes: Uint8Array, mediaType: string): Promise<object> => ({
    mediaType,
    digest: await putBlob(base, bytes),
    size: bytes.length,
  });
  const config = await describe(Buffer.from('{}'), 'application/vnd.oci.image.config.v1+json');
  const described: object[] = [];
  for (const layer of layers) {
    described.push(await describe(layer, 'application/vnd.oci.image.layer.v1.tar'));
  }
  const [mediaType] = MANIFEST_MEDIA_TYPES;
  return putManifest(base, tag, { schemaVersion: 2, mediaType, config, layers: described });
}

/** Puts an index of manifests that the registry already has, and tags it. */
export function putIndex(
  base: string,
  tag: string,
  manifests: readonly { digest: Digest; size: number; platform: object }[],
): Promise<{ readonly digest: Digest; readonly bytes: Uint8Array }> {
  const entries = manifests.map((entry) => ({ mediaType: MANIFEST_MEDIA_TYPES[0], ...entry }));
  const [mediaType] = INDEX_MEDIA_TYPES;
  return putManifest(base, tag, { schemaVersion: 2, mediaType, manifests: entries });
}

async function putManifest(
  base: string,
  tag: string,
  manifest: { readonly mediaType: string; readonly [field: string]: unknown },
) {
  const bytes = new TextEncoder().encode(JSON.stringify(manifest));
  const headers = { 'content-type': manifest.mediaType };
  const url = `${base}/manifests/${tag}`;
  await expectCreated(await fetch(url, { method: 'PUT', body: bytes, headers }));
  return { digest: digestOf(bytes), bytes };
}

async function expectCreated(response: Response): Promise<void> {
  const text = await response.text();
  if (response.status !== 201) throw new Error(`status ${response.status}: ${text}`);
}
