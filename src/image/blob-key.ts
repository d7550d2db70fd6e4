import type { Hash } from '../runtime/codec.ts';
import { defined } from '../util/assert.ts';
import { toHex } from '../util/bytes.ts';
import type { BlobOrigin, BlobRef } from './block.ts';
import { digestBytes, digestOfSha256, type Digest } from './digest.ts';

const encoder = new TextEncoder();
const QUARANTINE = encoder.encode('xylem-quarantine-1\0');
const OPAQUE = encoder.encode('xylem-opaque-1\0');
const OWN_WAY = encoder.encode('xylem-own-way-1\0');

/** Bytes of the hash in a key; the rest is its mark. */
const HASH_BYTES = 24;

/** Ends every key. One blob in 2^64 has a digest that ends so: it is refused. */
const MARK = encoder.encode('xylemkey');
const MARK_HEX = toHex(MARK);

/**
 * The source of a blob, as quarantine tells sources apart: a registry host, or a storage prefix.
 * Repositories of one registry are one source, since one operator answers for them.
 */
export function sourceOf(origin: BlobOrigin): string {
  return origin.storage ?? origin.registry.toLowerCase();
}

/**
 * The key that names the blocks of a blob while its source is not believed. Attestations, store and
 * wire all use it: the first 24 bytes of
 *
 *     SHA-256("xylem-quarantine-1" 0 | sha256 that the source was asked for (32) | source in UTF-8)
 *
 * and the mark `xylemkey`. It has the length of a digest, so that trees, store, wire and
 * attestations need no second kind of name, and the source stands in every signed claim. The mark
 * tells it from a digest: see `isOwnKey()`. A request that names another source, or a believed one,
 * never meets these blocks.
 */
export function quarantineKey(
  hash: Pick<Hash, 'sha256'>,
  digest: Digest,
  origin: BlobOrigin,
): Digest {
  return keyOf(hash, [QUARANTINE, digestBytes(digest), encoder.encode(sourceOf(origin))]);
}

/**
 * The key that names the blocks of a blob at a storage whose paths hold no digest: the first 24
 * bytes of
 *
 *     SHA-256("xylem-opaque-1" 0 | size (u64) | source | path | ETag)
 *
 * and the mark; each text in UTF-8 behind its length in bytes (u32), integers little-endian. What
 * changes at the storage has another key.
 */
export function opaqueKey(hash: Pick<Hash, 'sha256'>, origin: BlobOrigin): Digest {
  const { path, etag, sizeBytes } = defined(origin.opaque, 'the origin names an opaque blob');
  const texts = [sourceOf(origin), path, etag].flatMap((text) => {
    const bytes = encoder.encode(text);
    const length = new Uint8Array(4);
    new DataView(length.buffer).setUint32(0, bytes.length, true);
    return [length, bytes];
  });
  return keyOf(hash, [OPAQUE, sizeField(sizeBytes), ...texts]);
}

/**
 * The key that names the blocks of a blob which this host reads by its clients' own ways: nobody
 * attests them, so they stay apart from blocks that roots vouch for, in memory and in the store.
 * The first 24 bytes of
 *
 *     SHA-256("xylem-own-way-1" 0 | sha256 that the source was asked for, or its opaque key (32) |
 *             size in bytes u64 LE (8) | source in UTF-8)
 *
 * and the mark. Another size at the source is another key.
 */
export function ownWayKey(
  hash: Pick<Hash, 'sha256'>,
  { digest, sizeBytes }: BlobRef,
  origin: BlobOrigin,
): Digest {
  const source = encoder.encode(sourceOf(origin));
  return keyOf(hash, [OWN_WAY, digestBytes(digest), sizeField(sizeBytes), source]);
}

function sizeField(sizeBytes: number): Uint8Array {
  const field = new Uint8Array(8);
  new DataView(field.buffer).setBigUint64(0, BigInt(sizeBytes), true);
  return field;
}

/**
 * The key of this origin's own, when its blocks are not named by the digest of the content;
 * undefined when they are, and for an origin of two kinds at once, which there is not.
 */
export function ownKeyOf(hash: Pick<Hash, 'sha256'>, origin: BlobOrigin): Digest | undefined {
  const { content, opaque } = origin;
  if (opaque !== undefined) return content === undefined ? opaqueKey(hash, origin) : undefined;
  return content === undefined ? undefined : quarantineKey(hash, content, origin);
}

/** Whether the blocks of a blob of this origin have a key that is no digest of anything. */
export function hasOwnKey({ content, opaque }: BlobOrigin): boolean {
  return content !== undefined || opaque !== undefined;
}

/**
 * Whether this is a key, and so no digest: no URL, manifest or peer gets anything by naming it as
 * one.
 */
export function isOwnKey(key: Digest): boolean {
  return key.endsWith(MARK_HEX);
}

function keyOf(hash: Pick<Hash, 'sha256'>, parts: readonly Uint8Array[]): Digest {
  const text = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    text.set(part, at);
    at += part.length;
  }
  const key = hash.sha256(text).slice();
  key.set(MARK, HASH_BYTES);
  return digestOfSha256(key);
}
