import type { BlobRef } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import type { Platform } from '../registry/platform.ts';
import { MIB } from '../util/bytes.ts';
import { CodedError } from '../util/errors.ts';
import { choosePlatform } from './choose-platform.ts';
import { ConvertError } from './errors.ts';
import { readParts, type StoredManifest } from './places/manifest-parts.ts';
import type { ImagePlace, ImageTarget } from './places/place.ts';
import type { ProgressOptions } from './layer-blob.ts';

/** Blobs copied at a time. (tunable) */
const BLOBS_MAX = 3;

/** Indexes within indexes, and referrers of referrers, that are followed. */
const DEPTH_MAX = 4;

/** Manifests of one copy, and their bytes, which are in memory until all blobs are there. */
const MANIFESTS_MAX = 4096;
const MANIFEST_BYTES_MAX = 64 * MIB;

/** What of an image is copied. */
export interface CopyOptions extends ProgressOptions {
  readonly signal: AbortSignal;
  /** The image for this platform alone; absent: all of an index. */
  readonly platform?: Platform | undefined;
  /** Also the manifests that refer to what is copied. */
  readonly withReferrers?: boolean | undefined;
}

/** A copied image. */
export interface CopiedImage {
  /** Of the manifest or the index, the same in both places. */
  readonly digest: Digest;
  readonly mediaType: string;
  /** Manifests and indexes, those of referrers included. */
  readonly manifestCount: number;
  readonly referrerCount: number;
  readonly blobCount: number;
  readonly blobBytes: number;
  /** Of these, what the target did not have. */
  readonly writtenCount: number;
  readonly writtenBytes: number;
}

/** What belongs to one image. */
interface Plan {
  /** What is named before what names it. */
  readonly manifests: Map<Digest, StoredManifest>;
  manifestBytes: number;
  readonly blobs: Map<Digest, BlobRef>;
}

/**
 * Copies an image with all that it names, byte for byte. Nothing is tagged before all is there.
 * Throws ConvertError, RegistryError, or the signal's reason; the target is then as before, but for
 * blobs that a second try need not copy again.
 */
export async function copyImage(
  source: ImagePlace,
  target: ImageTarget,
  options: CopyOptions,
): Promise<CopiedImage> {
  const { signal } = options;
  try {
    const root = await chosen(source, options);
    const plan: Plan = { manifests: new Map(), manifestBytes: 0, blobs: new Map() };
    await collect(source, root, { plan, depth: 0, signal });
    const referrers = options.withReferrers === true ? await refer(source, plan, signal) : [];
    const written = await copyBlobs({ source, target }, [...plan.blobs.values()], options);
    for (const manifest of plan.manifests.values()) {
      const { subject } = readParts(manifest);
      if (subject !== undefined) await target.addReferrer(manifest, signal);
      else if (manifest !== root) await target.putManifest(manifest, undefined, signal);
    }
    await target.putManifest(root, target.tag, signal);
    await target.finish(signal);
    return {
      digest: root.digest,
      mediaType: root.mediaType,
      manifestCount: plan.manifests.size,
      referrerCount: referrers.length,
      blobCount: plan.blobs.size,
      blobBytes: sumOf(plan.blobs.values()),
      writtenCount: written.length,
      writtenBytes: sumOf(written),
    };
  } finally {
    await target.discard();
  }
}

async function chosen(
  source: ImagePlace,
  { platform, signal }: CopyOptions,
): Promise<StoredManifest> {
  const root = await source.resolve(signal);
  return platform === undefined ? root : choosePlatform(source, root, { platform, signal });
}

interface Collecting {
  readonly plan: Plan;
  readonly depth: number;
  readonly signal: AbortSignal;
}

/** Adds a manifest and what it names to the plan. */
async function collect(
  source: ImagePlace,
  manifest: StoredManifest,
  { plan, depth, signal }: Collecting,
): Promise<void> {
  const { digest } = manifest;
  if (plan.manifests.has(digest)) return;
  if (depth > DEPTH_MAX || plan.manifests.size >= MANIFESTS_MAX) {
    const limits = `at most ${MANIFESTS_MAX} manifests, ${DEPTH_MAX} deep, are copied`;
    throw new ConvertError(`${source.name} has too many indexes within indexes: ${limits}`, {
      code: 'manifest',
      digest,
    });
  }
  plan.manifestBytes += manifest.bytes.length;
  if (plan.manifestBytes > MANIFEST_BYTES_MAX) {
    const what = `${source.name} has more than ${MANIFEST_BYTES_MAX} bytes of manifests`;
    throw new ConvertError(what, { code: 'manifest', digest });
  }
  const { manifests, blobs } = readParts(manifest);
  for (const { digest: inner } of manifests) {
    if (plan.manifests.has(inner)) continue;
    const found = await named(source, { index: digest, digest: inner }, signal);
    await collect(source, found, { plan, depth: depth + 1, signal });
  }
  for (const { digest: blob, size } of blobs) {
    plan.blobs.set(blob, { digest: blob, sizeBytes: size });
  }
  plan.manifests.set(digest, manifest);
}

async function named(
  source: ImagePlace,
  { index, digest }: { readonly index: Digest; readonly digest: Digest },
  signal: AbortSignal,
): Promise<StoredManifest> {
  try {
    return await source.manifest(digest, signal);
  } catch (cause) {
    const isAbsent = cause instanceof CodedError && /^(not-found|layout)$/.test(String(cause.code));
    if (!isAbsent) throw cause;
    const what = `${source.name} lacks manifest ${digest}, which its index ${index} names`;
    const advice = 'copy the image for one platform with --platform';
    throw new ConvertError(`${what}; ${advice}`, { code: 'manifest', digest }, { cause });
  }
}

/** Adds the referrers of all that is planned, and theirs, to the plan. */
async function refer(
  source: ImagePlace,
  plan: Plan,
  signal: AbortSignal,
): Promise<readonly Digest[]> {
  const found: Digest[] = [];
  // The loop comes by what it adds, too.
  for (const subject of plan.manifests.keys()) {
    for (const { digest } of await source.referrers(subject, undefined, signal)) {
      if (plan.manifests.has(digest)) continue;
      const manifest = await source.manifest(digest, signal);
      // A list can name what refers to something else.
      if (readParts(manifest).subject !== subject) continue;
      found.push(digest);
      await collect(source, manifest, { plan, depth: 1, signal });
    }
  }
  return found;
}

/** Gives those that the target did not have. */
async function copyBlobs(
  { source, target }: { readonly source: ImagePlace; readonly target: ImageTarget },
  blobs: readonly BlobRef[],
  options: CopyOptions,
): Promise<readonly BlobRef[]> {
  const failed = new AbortController();
  const signal = AbortSignal.any([options.signal, failed.signal]);
  const totalBytes = sumOf(blobs);
  const doneBytes = new Map<Digest, number>();
  const report = (digest: Digest, bytes: number): void => {
    doneBytes.set(digest, bytes);
    const sum = [...doneBytes.values()].reduce((a, b) => a + b, 0);
    options.onProgress?.('copying', sum, totalBytes);
  };
  const written: BlobRef[] = [];
  const copy = async (blob: BlobRef): Promise<void> => {
    const isWritten = await target.putBlob(blob, () => source.openBlob(blob, signal), {
      signal,
      from: source,
      onProgress: (bytes) => report(blob.digest, bytes),
    });
    report(blob.digest, blob.sizeBytes);
    if (isWritten) written.push(blob);
  };
  const left = blobs.values();
  const work = async (): Promise<void> => {
    for (const blob of left) {
      signal.throwIfAborted();
      await copy(blob);
    }
  };
  const workers = Array.from({ length: BLOBS_MAX }, work);
  for (const worker of workers) worker.catch((error: unknown) => failed.abort(error));
  // All have ended before the target is given up.
  await Promise.allSettled(workers);
  signal.throwIfAborted();
  return written;
}

function sumOf(blobs: Iterable<BlobRef>): number {
  let sum = 0;
  for (const { sizeBytes } of blobs) sum += sizeBytes;
  return sum;
}
