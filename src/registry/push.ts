import type { BlobOrigin, BlobRef } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import { INDEX_MEDIA_TYPES, MANIFEST_SIZE_BYTES_MAX } from '../image/manifest.ts';
import { protocolError, RegistryError } from './errors.ts';
import { lengthOf } from './http/blob-range.ts';
import type { HttpHead } from './http/message.ts';
import { CollectingSink, ExcerptSink, HeadSink } from './http/sinks.ts';
import type { RegistryServer } from './server.ts';

/** A manifest to put into a registry. */
export interface NewManifest {
  readonly mediaType: string;
  readonly bytes: Uint8Array;
  readonly digest: Digest;
}

/** Of answers to uploads; nothing in them is of use. */
const ANSWER_BYTES_MAX = 64 * 1024;

/** A registry that checks all blobs of a manifest may be silent for this long. (tunable) */
const CHECK_SILENCE_MS_MAX = 60_000;

/** Pages of one list of referrers that are read. */
const PAGES_MAX = 64;

/** Whether the repository has the blob. */
export async function hasBlob(
  server: RegistryServer,
  { origin, digest, sizeBytes }: BlobRef & { readonly origin: BlobOrigin },
  signal: AbortSignal,
): Promise<boolean> {
  const path = `/v2/${origin.repository}/blobs/${digest}`;
  try {
    const { head } = await server.request(
      { method: 'HEAD', path, headers: {}, scope: pushScope(origin), open: ignore },
      signal,
    );
    return (lengthOf(head) ?? sizeBytes) === sizeBytes;
  } catch (error) {
    if (error instanceof RegistryError && error.code === 'not-found') return false;
    throw error;
  }
}

/**
 * Puts a manifest into a repository, whose blobs must be there, under its digest or a tag. Gives
 * the digest of the subject that the registry took it for, if it knows referrers.
 */
export async function putManifest(
  server: RegistryServer,
  target: { readonly origin: BlobOrigin; readonly tag: string | undefined },
  manifest: NewManifest,
  signal: AbortSignal,
): Promise<string | undefined> {
  const { origin, tag } = target;
  const { head } = await server.request(
    {
      method: 'PUT',
      path: `/v2/${origin.repository}/manifests/${tag ?? manifest.digest}`,
      headers: { 'content-type': manifest.mediaType },
      scope: pushScope(origin),
      silenceMs: CHECK_SILENCE_MS_MAX,
      body: () => manifest.bytes,
      open: ignore,
    },
    signal,
  );
  const actual = head.headers['docker-content-digest'] ?? manifest.digest;
  if (actual === manifest.digest) return textOf(head, 'oci-subject');
  const expected = manifest.digest;
  const what = `${server.base.host} keeps manifest ${expected} as ${String(actual)}`;
  throw new RegistryError(what, { code: 'digest-mismatch', expected, actual: String(actual) });
}

/** Removes a manifest, unless it is not there. Not every registry allows it. */
export async function deleteManifest(
  server: RegistryServer,
  { origin, digest }: { readonly origin: BlobOrigin; readonly digest: Digest },
  signal: AbortSignal,
): Promise<void> {
  const path = `/v2/${origin.repository}/manifests/${digest}`;
  const scope = `repository:${origin.repository}:pull,push,delete`;
  try {
    await server.request({ method: 'DELETE', path, headers: {}, scope, open: ignore }, signal);
  } catch (error) {
    if (!(error instanceof RegistryError) || error.code !== 'not-found') throw error;
  }
}

/**
 * The pages of the list of manifests that name this one as their subject (distribution spec 1.1,
 * "Listing Referrers"): indexes, as they come. Undefined when the registry has no such lists.
 */
export async function readReferrers(
  server: RegistryServer,
  of: { readonly origin: BlobOrigin; readonly digest: Digest; readonly artifactType?: string },
  signal: AbortSignal,
): Promise<readonly Uint8Array[] | undefined> {
  const { origin, digest, artifactType } = of;
  const what = `the referrers of ${digest}`;
  const pages: Uint8Array[] = [];
  const first = new URL(`/v2/${origin.repository}/referrers/${digest}`, server.base);
  if (artifactType !== undefined) first.searchParams.set('artifactType', artifactType);
  for (let url: URL | undefined = first; url !== undefined; ) {
    if (pages.length === PAGES_MAX) {
      throw protocolError('bad-json', `${what} fill more than ${PAGES_MAX} pages`);
    }
    try {
      const { head, sink } = await server.request(
        {
          method: 'GET',
          path: url.href,
          headers: { accept: INDEX_MEDIA_TYPES[0] },
          scope: `repository:${origin.repository}:pull`,
          open: () => new CollectingSink({ what, sizeBytesMax: MANIFEST_SIZE_BYTES_MAX }),
        },
        signal,
      );
      const type = textOf(head, 'content-type')?.split(';')[0]?.trim();
      // A server that knows no such path may answer with a page.
      if (type !== INDEX_MEDIA_TYPES[0] && pages.length === 0) return undefined;
      pages.push(sink.bytes());
      url = nextPage(head, url);
    } catch (error) {
      if (pages.length === 0 && isUnknown(error)) return undefined;
      throw error;
    }
  }
  return pages;
}

/** What it takes to write includes reading: clients ask for both. */
export function pushScope(origin: BlobOrigin): string {
  return `repository:${origin.repository}:pull,push`;
}

/** For answers whose body says nothing. */
export const ignore = (head: HttpHead): ExcerptSink | HeadSink =>
  head.status < 300 ? new HeadSink() : new ExcerptSink({ sizeBytesMax: ANSWER_BYTES_MAX });

/** One header, as text. */
export function textOf(head: HttpHead, name: string): string | undefined {
  const value = head.headers[name];
  return Array.isArray(value) ? value[0] : value;
}

/** Of the same server: its credentials go along. */
export function nextPage(head: HttpHead, from: URL): URL | undefined {
  const link = /<([^>]+)>\s*;\s*rel="?next"?/.exec(textOf(head, 'link') ?? '')?.[1];
  const url = link === undefined ? null : URL.parse(link, from);
  return url?.origin === from.origin ? url : undefined;
}

function isUnknown(error: unknown): boolean {
  if (!(error instanceof RegistryError)) return false;
  const { detail } = error;
  return (
    detail.code === 'not-found' ||
    (detail.code === 'protocol' && detail.fault === 'unexpected-status')
  );
}
