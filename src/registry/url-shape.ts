import { isOwnKey } from '../image/blob-key.ts';
import { parseDigest, type Digest } from '../image/digest.ts';
import { isRegistryHost } from './hosts.ts';
import { isRepository } from './reference.ts';

/**
 * Signed URLs of the big clouds have about 2 KiB. Node bounds the request's head as a whole at 16
 * KiB.
 */
const URL_LENGTH_MAX = 8 * 1024;

/** One slash is what is left of two where a proxy or a router tidied the path. */
const ORIGIN_URL = /^(https?):\/\/?([^/?#]+)(\/[^?#]*)?(\?[^#]*)?$/i;

const REGISTRY_BLOB = /^\/v2\/(.+)\/blobs\/sha256:([0-9a-f]{64})$/;

/** `sha256/ab/HEX/data` (Distribution, Harbor, Docker Hub, Azure), `sha256/ab/HEX` (Quay). */
const STORAGE_FOLDERS = /^(.*\/)sha256\/([0-9a-f]{2})\/(\2[0-9a-f]{62})(?:\/data)?$/;

/** `blobs/sha256:HEX` (GitHub), `containers/images/sha256:HEX` (older Google). */
const STORAGE_NAME = /^(.*\/)sha256:([0-9a-f]{64})$/;

/**
 * Parts of a path that name a digest to some server, whatever else they are: more hex digits in a
 * row may be read as a digest and what follows it.
 */
const DIGEST_LIKE = /[0-9a-f]{64,}/gi;

/**
 * A path that servers read in more than one way: dot segments, encoded dots, slashes, backslashes
 * and percent signs.
 */
const AMBIGUOUS = /(?:^|\/)\.{1,2}(?=\/|$)|%2e|%2f|%5c|%25|%[01][0-9a-f]|%7f|\\/i;

/** Queries that choose another object than the path names, or a part of it. */
const SUB_RESOURCES = new Set(['versionid', 'partnumber', 'comp', 'snapshot', 'generation']);

/** What an origin URL is, by its shape alone. Nothing here says whether its server is believed. */
export type UrlShape =
  /** `https://HOST/v2/NAME/blobs/sha256:HEX` */
  | {
      readonly kind: 'registry';
      readonly url: string;
      readonly scheme: 'http' | 'https';
      readonly host: string;
      readonly repository: string;
      readonly digest: Digest;
    }
  /** A blob at a storage to which its registry redirected. */
  | {
      readonly kind: 'storage';
      readonly url: string;
      readonly scheme: 'http' | 'https';
      readonly host: string;
      /** Scheme, host and the path up to the digest: the part that all blobs of a bucket share. */
      readonly prefix: string;
      readonly digest: Digest;
    }
  /** A sound URL that names no blob: passed through, neither lent nor kept. */
  | { readonly kind: 'other'; readonly url: string; readonly host: string }
  /** No URL, or one that two servers may read in two ways. */
  | {
      readonly kind: 'refused';
      readonly fault: 'not-a-url' | 'ambiguous';
      readonly reason: string;
    };

/**
 * Reads an origin URL strictly. The URL is kept as it is, percent-encoding untouched; only its path
 * names the blob, since queries differ from host to host and may hold anything. A path holds one
 * digest, in its last segments, or it names no blob; a key of blocks (blob-key.ts) is no digest.
 */
export function shapeOf(text: string): UrlShape {
  const match = text.length <= URL_LENGTH_MAX ? ORIGIN_URL.exec(text) : null;
  if (match === null)
    return refused('not-a-url', 'it is no http or https URL without user and fragment');
  const [, schemeText = '', host = '', path = '/', query = ''] = match;
  if (!isRegistryHost(host)) return refused('not-a-url', 'its host is no HOST or HOST:PORT');
  if (AMBIGUOUS.test(path)) {
    return refused(
      'ambiguous',
      'its path holds dot segments, backslashes, or encoded dots, slashes or control characters',
    );
  }
  const scheme = schemeText.toLowerCase() === 'http' ? 'http' : 'https';
  const base = `${scheme}://${host}`;
  const url = `${base}${path}${query}`;
  const other = { kind: 'other', url, host } as const;
  // Names such as `..v2` are no dot segments to most servers: nothing behind them is shared.
  if (namesSubResource(query) || digestLikes(path) !== 1 || path.includes('..')) return other;
  if (path.startsWith('/v2/')) {
    const [, repository = '', hex = ''] = REGISTRY_BLOB.exec(path) ?? [];
    const digest = parseDigest(`sha256:${hex}`);
    if (digest === undefined || isOwnKey(digest) || !isRepository(repository)) return other;
    return { kind: 'registry', url, scheme, host, repository, digest };
  }
  const [, before, hex] = storageMatch(path) ?? [];
  const digest = parseDigest(`sha256:${hex}`);
  if (before === undefined || digest === undefined || isOwnKey(digest)) return other;
  return { kind: 'storage', url, scheme, host, prefix: `${base}${before}`, digest };
}

/** Number of parts of the path that some server may read as a digest. */
export function digestLikes(path: string): number {
  return path.match(DIGEST_LIKE)?.length ?? 0;
}

function storageMatch(path: string): readonly [string, string, string] | undefined {
  const folders = STORAGE_FOLDERS.exec(path);
  if (folders !== null) return [folders[0], folders[1] ?? '/', folders[3] ?? ''];
  const name = STORAGE_NAME.exec(path);
  return name === null ? undefined : [name[0], name[1] ?? '/', name[2] ?? ''];
}

function namesSubResource(query: string): boolean {
  return query
    .slice(1)
    .split('&')
    .some((pair) => SUB_RESOURCES.has(decoded(pair.split('=')[0] ?? '').toLowerCase()));
}

/** A name as a server reads it: `version%49d` is `versionId`. */
function decoded(name: string): string {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

function refused(fault: 'not-a-url' | 'ambiguous', reason: string): UrlShape {
  return { kind: 'refused', fault, reason };
}
