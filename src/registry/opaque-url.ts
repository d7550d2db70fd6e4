import { digestLikes, shapeOf } from './url-shape.ts';

/** A key of S3 has at most 1,024 bytes. */
const PATH_LENGTH_MAX = 1024;

/** Segments of characters that no server encodes or reads in a second way. */
const PATH = /^(?:\/[A-Za-z0-9_~.-]+)+$/;

/** What a signature of S3 (version 4) consists of, and the name of the operation. */
const PARAMETER = /^(?:x-amz-[a-z-]+|x-id)$/i;
const SIGNATURE = /^[0-9a-f]{64}$/;

/** A signed URL of an object whose path holds no digest; an S3 signature is in its query. */
export interface OpaqueUrl {
  /** As it came. Secret: it is the permission itself. */
  readonly url: string;
  readonly scheme: 'http' | 'https';
  /** As it came. */
  readonly host: string;
  /** `scheme://host[:port]/`, in lower case and without the usual port: see `OpaqueName`. */
  readonly storage: string;
  /** Without the leading slash. */
  readonly path: string;
}

/**
 * Reads the URL of an opaque blob strictly; undefined for any other URL. The query may hold a
 * signature and nothing else: other parameters may choose a version, a part or another view of the
 * object. `BelievedSources.believesOpaque()` says whether the storage is believed.
 */
export function opaqueUrlOf(text: string): OpaqueUrl | undefined {
  const shape = shapeOf(text);
  if (shape.kind !== 'other') return undefined;
  const { url } = shape;
  const [, schemeText = '', host = '', path = '', query = ''] =
    /^(https?):\/\/([^/?]+)([^?]*)\??(.*)$/.exec(url) ?? [];
  if (path.length > PATH_LENGTH_MAX || !PATH.test(path) || path.startsWith('/v2/')) {
    return undefined;
  }
  // What may be a digest belongs to the shapes that name one, or to none.
  if (digestLikes(path) > 0 || !isSignature(query)) return undefined;
  const scheme = schemeText === 'http' ? 'http' : 'https';
  const usualPort = scheme === 'http' ? /:80$/ : /:443$/;
  const storage = `${scheme}://${host.toLowerCase().replace(usualPort, '')}/`;
  return { url, scheme, host, storage, path: path.slice(1) };
}

function isSignature(query: string): boolean {
  const pairs = query.split('&').map((pair) => pair.split('='));
  const names = new Set(pairs.map(([name = '']) => name.toLowerCase()));
  if (names.size !== pairs.length) return false;
  if (!pairs.every(([name = '', ...value]) => PARAMETER.test(name) && value.length === 1)) {
    return false;
  }
  const values = new Map(pairs.map(([name = '', value = '']) => [name, value]));
  const isDated = values.has('X-Amz-Date') && values.has('X-Amz-Credential');
  return isDated && SIGNATURE.test(values.get('X-Amz-Signature') ?? '');
}
