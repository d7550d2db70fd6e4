import { parseDigest, type Digest } from '../../image/digest.ts';

/**
 * What a request target asks of the mirror (distribution spec, "API", and containerd's `?ns=`).
 *
 * - `elsewhere`: not for the mirror. `ping`: whether this is a registry. `other`: of the API, and
 *   not served here.
 * - `namespace`: the registry that the client means; undefined when it does not say, empty when it
 *   says nothing that can be read.
 */
export type MirrorTarget =
  | { readonly kind: 'elsewhere' }
  | { readonly kind: 'ping' }
  | { readonly kind: 'other' }
  | ({ readonly kind: 'manifest'; readonly reference: string } & Named)
  | ({ readonly kind: 'blob'; readonly digest: Digest } & Named);

interface Named {
  readonly repository: string;
  readonly namespace: string | undefined;
}

const OBJECT = /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/;

/** Names, a digest and `?ns=`, with room. */
const TARGET_LENGTH_MAX = 2048;

/** Reads the raw request target. Names are not checked here. */
export function parseMirrorTarget(target: string): MirrorTarget {
  const [path = '', query = ''] = cut(target);
  if (path === '/v2' || path === '/v2/') return { kind: 'ping' };
  // With the prefix `v2` overlaybd's requests look like this.
  if (!path.startsWith('/v2/') || /^\/v2\/https?:/i.test(path)) return { kind: 'elsewhere' };
  const match = target.length <= TARGET_LENGTH_MAX ? OBJECT.exec(path) : null;
  if (match === null) return { kind: 'other' };
  const [, repository = '', kind, encoded = ''] = match;
  const named = { repository, namespace: new URLSearchParams(query).get('ns') ?? undefined };
  const reference = decoded(encoded);
  if (kind === 'manifests') return { kind: 'manifest', reference, ...named };
  const digest = parseDigest(reference);
  return digest === undefined ? { kind: 'other' } : { kind: 'blob', digest, ...named };
}

function cut(target: string): readonly string[] {
  const at = target.indexOf('?');
  return at < 0 ? [target] : [target.slice(0, at), target.slice(at + 1)];
}

/** Some clients encode the colon of a digest. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return '';
  }
}
