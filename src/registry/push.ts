import type { BlobOrigin, BlobRef } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import { lengthOf } from './http/blob-range.ts';
import { RegistryError } from './errors.ts';
import { readLocation } from './http/location.ts';
import type { RegistryServer } from './server.ts';
import { ExcerptSink } from './http/sinks.ts';

/** A manifest to put into a registry. */
export interface NewManifest {
  readonly mediaType: string;
  readonly bytes: Uint8Array;
  readonly digest: Digest;
}

/** The bytes of a blob from the start; called again for another attempt. */
export type BlobOpener = () => AsyncIterable<Uint8Array>;

/** Of answers to uploads; nothing in them is of use. */
const ANSWER_BYTES_MAX = 64 * 1024;

/**
 * Puts a blob into a repository, unless it is there; whether it was sent (distribution spec, "POST
 * then PUT").
 */
export async function putBlob(
  server: RegistryServer,
  blob: BlobRef & { readonly origin: BlobOrigin },
  open: BlobOpener,
  signal: AbortSignal,
): Promise<boolean> {
  const scope = pushScope(blob.origin);
  const blobs = `/v2/${blob.origin.repository}/blobs`;
  if (await hasBlob(server, { path: `${blobs}/${blob.digest}`, scope, blob }, signal)) return false;
  const begun = await server.request(
    { method: 'POST', path: `${blobs}/uploads/`, headers: {}, scope, body: empty, open: ignore },
    signal,
  );
  const url = readLocation(begun.head, server.base);
  url.searchParams.set('digest', blob.digest);
  const headers = {
    'content-type': 'application/octet-stream',
    'content-length': String(blob.sizeBytes),
  };
  await server.request(
    { method: 'PUT', path: url.href, headers, scope, body: open, open: ignore },
    signal,
  );
  return true;
}

/** Puts a manifest into a repository, whose blobs must be there, and tags it. */
export async function putManifest(
  server: RegistryServer,
  target: { readonly origin: BlobOrigin; readonly tag: string },
  manifest: NewManifest,
  signal: AbortSignal,
): Promise<void> {
  const { origin, tag } = target;
  const { head } = await server.request(
    {
      method: 'PUT',
      path: `/v2/${origin.repository}/manifests/${tag}`,
      headers: { 'content-type': manifest.mediaType },
      scope: pushScope(origin),
      body: () => manifest.bytes,
      open: ignore,
    },
    signal,
  );
  const actual = head.headers['docker-content-digest'] ?? manifest.digest;
  if (actual === manifest.digest) return;
  const expected = manifest.digest;
  const what = `${server.base.host} keeps manifest ${expected} as ${String(actual)}`;
  throw new RegistryError(what, { code: 'digest-mismatch', expected, actual: String(actual) });
}

async function hasBlob(
  server: RegistryServer,
  request: { readonly path: string; readonly scope: string; readonly blob: BlobRef },
  signal: AbortSignal,
): Promise<boolean> {
  const { path, scope, blob } = request;
  try {
    const { head } = await server.request(
      { method: 'HEAD', path, headers: {}, scope, open: ignore },
      signal,
    );
    return lengthOf(head) === blob.sizeBytes;
  } catch (error) {
    if (error instanceof RegistryError && error.code === 'not-found') return false;
    throw error;
  }
}

/** What it takes to write includes reading: clients ask for both. */
function pushScope(origin: BlobOrigin): string {
  return `repository:${origin.repository}:pull,push`;
}

const empty = (): Uint8Array => new Uint8Array(0);
const ignore = (): ExcerptSink => new ExcerptSink({ sizeBytesMax: ANSWER_BYTES_MAX });
