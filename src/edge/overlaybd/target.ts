import type { Digest } from '../../image/digest.ts';
import { opaqueUrlOf, type OpaqueUrl } from '../../registry/opaque-url.ts';
import { shapeOf } from '../../registry/url-shape.ts';
import type { BlobAddress } from '../access/contract.ts';

/**
 * What a request target of the overlaybd endpoint asks for.
 *
 * - `elsewhere`: the path is not below the prefix.
 * - `no-url`: no origin URL follows the prefix.
 * - `ambiguous`: two servers may read the URL in two ways; it is sent to none.
 * - `opaque`: a signed URL of an object without a digest, which may be a blob all the same.
 * - `no-digest`: a sound URL whose path names no blob.
 */
export type BlobTarget =
  | { readonly kind: 'blob'; readonly digest: Digest; readonly address: BlobAddress }
  | { readonly kind: 'elsewhere' }
  | { readonly kind: 'no-url' }
  | { readonly kind: 'ambiguous'; readonly reason: string }
  | { readonly kind: 'opaque'; readonly url: OpaqueUrl }
  | { readonly kind: 'no-digest'; readonly url: string };

/**
 * Reads the raw request target `/<prefix>/<origin URL>`; see `shapeOf()` for the URLs that name a
 * blob.
 */
export function parseBlobTarget(target: string, prefix: string): BlobTarget {
  const start = prefix === '' ? '/' : `/${prefix}/`;
  if (!target.startsWith(start)) return { kind: 'elsewhere' };
  const shape = shapeOf(target.slice(start.length));
  switch (shape.kind) {
    case 'refused':
      if (shape.fault === 'not-a-url') return { kind: 'no-url' };
      return { kind: 'ambiguous', reason: shape.reason };
    case 'other': {
      const url = opaqueUrlOf(shape.url);
      return url === undefined ? { kind: 'no-digest', url: shape.url } : { kind: 'opaque', url };
    }
    case 'registry':
    case 'storage': {
      const { scheme, host: registry, digest, url } = shape;
      const repository = shape.kind === 'registry' ? shape.repository : '';
      const storage = shape.kind === 'storage' ? { storage: shape.prefix } : {};
      return { kind: 'blob', digest, address: { scheme, registry, repository, url, ...storage } };
    }
  }
}
