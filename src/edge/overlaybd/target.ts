import { parseDigest, type Digest } from '../../image/digest.ts';
import { isRegistryHost } from '../../registry/hosts.ts';
import type { BlobAddress } from '../access/contract.ts';

/**
 * What a request target of the overlaybd endpoint asks for.
 *
 * - `elsewhere`: the path is not below the prefix. `no-url`: no origin URL follows the prefix. `no-digest`: its path names no blob.
 */
export type BlobTarget =
  | { readonly kind: 'blob'; readonly digest: Digest; readonly address: BlobAddress }
  | { readonly kind: 'elsewhere' }
  | { readonly kind: 'no-url' }
  | { readonly kind: 'no-digest'; readonly url: string };

/** Signed URLs of the big clouds have about 2 KiB. Node bounds the request's head as a whole at 16 KiB. */
const TARGET_LENGTH_MAX = 8 * 1024;

/** One slash is what is left of two where a proxy or a router tidied the path. */
const ORIGIN_URL = /^(https?):\/\/?([^/?#]+)(\/[^?#]*)?(\?[^#]*)?$/i;

/** `https://host/v2/NAME/blobs/sha256:HEX` */
const DIGEST_OF_REGISTRY = /\/sha256:([0-9a-f]{64})(?:\/|$)/;

/** `.../sha256/ab/HEX/data`: how the reference registry lays out its storage, seen behind its redirects. */
const DIGEST_OF_STORAGE = /\/sha256\/([0-9a-f]{2})\/(\1[0-9a-f]{62})\/data(?:\/|$)/;

const REPOSITORY = /^\/v2\/(.+)\/blobs\/sha256:[0-9a-f]{64}$/;

/**
 * Reads the raw request target `/<prefix>/<origin URL>`: the URL is kept as it is, its percent-encoding untouched.
 * Only the path counts for the digest: queries differ from host to host, and may hold anything.
 */
export function parseBlobTarget(target: string, prefix: string): BlobTarget {
  const start = prefix === '' ? '/' : `/${prefix}/`;
  if (!target.startsWith(start)) return { kind: 'elsewhere' };
  const rest = target.slice(start.length);
  const match = target.length <= TARGET_LENGTH_MAX ? ORIGIN_URL.exec(rest) : null;
  if (match === null) return { kind: 'no-url' };
  const [, schemeText = '', host = '', path = '/', query = ''] = match;
  const scheme = schemeText.toLowerCase() === 'http' ? 'http' : 'https';
  if (!isRegistryHost(host)) return { kind: 'no-url' };
  const url = `${scheme}://${host}${path}${query}`;
  const digest = digestIn(path);
  if (digest === undefined) return { kind: 'no-digest', url };
  const repository = REPOSITORY.exec(path)?.[1] ?? '';
  return { kind: 'blob', digest, address: { scheme, registry: host, repository, url } };
}

function digestIn(path: string): Digest | undefined {
  const hex = DIGEST_OF_REGISTRY.exec(path)?.[1] ?? DIGEST_OF_STORAGE.exec(path)?.[2];
  return hex === undefined ? undefined : parseDigest(`sha256:${hex}`);
}
