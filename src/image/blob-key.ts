import type { Hash } from '../runtime/codec.ts';
import type { BlobOrigin } from './block.ts';
import { digestBytes, digestOf, type Digest } from './digest.ts';

const CONTEXT = new TextEncoder().encode('xylem-quarantine-1\0');

/**
 * The source of a blob, as quarantine tells sources apart: a registry host, or a storage prefix.
 * Repositories of one registry are one source, since one operator answers for them.
 */
export function sourceOf(origin: BlobOrigin): string {
  return origin.storage ?? origin.registry.toLowerCase();
}

/**
 * The key that names the blocks of a blob while its source is not believed. Attestations, store and
 * wire all use it:
 *
 *     SHA-256("xylem-quarantine-1" 0 | sha256 that the source was asked for (32) | source in UTF-8)
 *
 * It has the form of a digest, so that trees, store, wire and attestations need no second kind of
 * name, and the source stands in every signed claim. Nobody can make a blob whose own digest is
 * such a key without breaking SHA-256. A request that names another source, or a believed one,
 * never meets these blocks.
 */
export function quarantineKey(
  hash: Pick<Hash, 'sha256'>,
  digest: Digest,
  origin: BlobOrigin,
): Digest {
  const source = new TextEncoder().encode(sourceOf(origin));
  const text = new Uint8Array(CONTEXT.length + 32 + source.length);
  text.set(CONTEXT, 0);
  text.set(digestBytes(digest), CONTEXT.length);
  text.set(source, CONTEXT.length + 32);
  return digestOf(hash, text);
}
