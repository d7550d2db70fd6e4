import type { BlobRef } from '../../image/block.ts';
import type { ByteRange } from '../../image/byte-source.ts';
import { digestOfSha256, type Digest } from '../../image/digest.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { BlobOpener } from '../../registry/upload.ts';
import { ConvertError } from '../errors.ts';
import type { NamedContent, StoredManifest } from './manifest-parts.ts';

/**
 * Where an image lies: in a registry, an OCI image layout, or an archive. What it gives is checked
 * against its digest, but for parts of blobs. Everything rejects with ConvertError, with
 * RegistryError, or with the signal's reason.
 */
export interface ImagePlace {
  /** As the user wrote it. */
  readonly name: string;
  /** The manifest or the index that the place names. */
  resolve(signal: AbortSignal): Promise<StoredManifest>;
  /** Another manifest there: one of an index, or a referrer. */
  manifest(digest: Digest, signal: AbortSignal): Promise<StoredManifest>;
  /**
   * The bytes of a blob, in pieces that stay valid. The last piece comes once all of them match the
   * digest and the size.
   */
  openBlob(blob: BlobRef, signal: AbortSignal): AsyncIterable<Uint8Array>;
  /** The bytes of a part of a blob, which nothing can check: only a whole has a digest. */
  readPart(blob: BlobRef, range: ByteRange, signal: AbortSignal): Promise<Uint8Array>;
  /** The manifests there whose subject is this one; all of them, or those of one type. */
  referrers(
    digest: Digest,
    artifactType: string | undefined,
    signal: AbortSignal,
  ): Promise<readonly NamedContent[]>;
}

/** How a blob is put. */
export interface PutOptions {
  readonly signal: AbortSignal;
  /** Where the blob lies: a registry takes it from a repository of its own without a transfer. */
  readonly from?: ImagePlace;
  /** Called with the bytes that are there. */
  readonly onProgress?: (doneBytes: number) => void;
}

/**
 * A place that takes an image. Life: made -> blobs, then manifests that name them -> `finish()`,
 * or `discard()`, which removes what is not yet usable. Errors are those of ImagePlace.
 */
export interface ImageTarget {
  readonly name: string;
  /** Of the image to put; undefined for one that is named by its digest. */
  readonly tag: string | undefined;
  /** Whether it is there, and whole. */
  hasBlob(blob: BlobRef, signal: AbortSignal): Promise<boolean>;
  /**
   * Puts a blob unless it is there; whether its bytes were written. `open` gives them from the
   * start, and fails when they do not match the digest.
   */
  putBlob(blob: BlobRef, open: BlobOpener, options: PutOptions): Promise<boolean>;
  /** Puts a manifest whose blobs and manifests are there. */
  putManifest(
    manifest: StoredManifest,
    tag: string | undefined,
    signal: AbortSignal,
  ): Promise<void>;
  /**
   * Puts a manifest that names a subject, and lists it among the referrers of that subject; whether
   * it was not there before.
   */
  addReferrer(manifest: StoredManifest, signal: AbortSignal): Promise<boolean>;
  /** Everything was put. */
  finish(signal: AbortSignal): Promise<void>;
  /** Nothing more comes; harmless after `finish()`. */
  discard(): Promise<void>;
}

/**
 * Gives the pieces on, the last one once they match digest and size. Throws ConvertError
 * (`digest-mismatch`) when they do not.
 */
export async function* checkedBlob(
  hash: Hash,
  blob: BlobRef,
  place: string,
  pieces: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const stream = hash.sha256Stream();
  let sizeBytes = 0;
  let last: Uint8Array | undefined;
  for await (const piece of pieces) {
    sizeBytes += piece.length;
    if (sizeBytes > blob.sizeBytes) break;
    stream.update(piece);
    if (last !== undefined) yield last;
    last = piece;
  }
  if (sizeBytes !== blob.sizeBytes) {
    const found = sizeBytes > blob.sizeBytes ? 'more' : String(sizeBytes);
    throw mismatch(blob, place, `it has ${found} bytes instead of ${blob.sizeBytes}`);
  }
  const actual = digestOfSha256(stream.digest());
  if (actual !== blob.digest) throw mismatch(blob, place, `its digest is ${actual}`);
  if (last !== undefined) yield last;
}

/** Whether a blob failed because its content is not that of its digest. */
export function isMismatch(error: unknown): boolean {
  return error instanceof ConvertError && error.code === 'digest-mismatch';
}

function mismatch({ digest }: BlobRef, place: string, what: string): ConvertError {
  return new ConvertError(
    `${place} has damaged content: blob ${digest}: ${what}; make or push that image again`,
    { code: 'digest-mismatch', digest },
  );
}
