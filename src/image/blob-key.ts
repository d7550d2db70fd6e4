import type { Hash } from '../runtime/codec.ts';
import type { BlobOrigin, BlobRef } from './block.ts';
import { digestBytes, digestOf, type Digest } from './digest.ts';

const QUARANTINE = new TextEncoder().encode('xylem-quarantine-1\0');
const OWN_WAY = new TextEncoder().encode('xylem-own-way-1\0');

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
  return keyOf(hash, [QUARANTINE, digestBytes(digest), sourceBytes(origin)]);
}

/**
 * The key that names the blocks of a blob which this host reads by its clients' own ways: nobody
 * attests them, so they stay apart from blocks that roots vouch for, in memory and in the store.
 *
 *     SHA-256("xylem-own-way-1" 0 | sha256 that the source was asked for (32) |
 *             size in bytes u64 LE (8) | source in UTF-8)
 *
 * Another size at the source is another key.
 */
export function ownWayKey(
  hash: Pick<Hash, 'sha256'>,
  { digest, sizeBytes }: BlobRef,
  origin: BlobOrigin,
): Digest {
  const size = new DataView(new ArrayBuffer(8));
  size.setBigUint64(0, BigInt(sizeBytes), true);
  const parts = [OWN_WAY, digestBytes(digest), new Uint8Array(size.buffer), sourceBytes(origin)];
  return keyOf(hash, parts);
}

function sourceBytes(origin: BlobOrigin): Uint8Array {
  return new TextEncoder().encode(sourceOf(origin));
}

function keyOf(hash: Pick<Hash, 'sha256'>, parts: readonly Uint8Array[]): Digest {
  const text = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    text.set(part, at);
    at += part.length;
  }
  return digestOf(hash, text);
}
