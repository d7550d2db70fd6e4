import type { BlobRef } from '../image/block.ts';
import type { ByteSource } from '../image/byte-source.ts';
import {
  ACCELERATION_ANNOTATION,
  MANIFEST_SIZE_BYTES_MAX,
  parseManifest,
  traceLayer,
  type Descriptor,
  type Manifest,
} from '../image/manifest.ts';
import { findTarPayload } from '../image/tar.ts';
import {
  checkTraceSize,
  parseTrace,
  TRACE_ACCESSES_MAX,
  type TraceAccess,
} from '../image/trace.ts';
import { hostPlatform, isIndex, type Platform } from '../registry/platform.ts';
import type { Codec } from '../runtime/codec.ts';
import { KIB, MIB } from '../util/bytes.ts';
import { choosePlatform } from './choose-platform.ts';
import { ConvertError } from './errors.ts';
import type { StoredManifest } from './places/manifest-parts.ts';
import type { ImagePlace } from './places/place.ts';
import { collect, isBlockLayer, parseConfig } from './source-image.ts';

/** The index of a layer's blocks has 2 bytes for a block that is compressed by itself. */
const TAIL_BYTES_MIN = 64 * KIB;
const TAIL_BYTES_MAX = 4 * MIB;

/** A block image of one platform, in its place. */
export interface BlockImage {
  readonly place: ImagePlace;
  readonly stored: StoredManifest;
  readonly manifest: Manifest;
}

/**
 * Finds the block image that a place names; of an index, the one for the platform, by default that
 * of this host. Throws ConvertError when it is an ordinary image, RegistryError (`no-platform`)
 * when it is made for another platform, and what the place throws.
 */
export async function findBlockImage(
  place: ImagePlace,
  { platform, signal }: { readonly platform: Platform | undefined; readonly signal: AbortSignal },
): Promise<BlockImage> {
  const root = await place.resolve(signal);
  const wanted = platform ?? (isIndex(root) ? hostPlatform() : undefined);
  const stored =
    wanted === undefined ? root : await choosePlatform(place, root, { platform: wanted, signal });
  const manifest = parseManifest(stored.bytes);
  const layers = blockDescriptors(manifest);
  if (layers.length > 0 && layers.every(isBlockLayer)) return { place, stored, manifest };
  throw new ConvertError(
    `${place.name} is no block image: its layers lack the annotations of overlaybd; ` +
      'make one of it with `xylem convert`',
    { code: 'manifest', digest: stored.digest },
  );
}

/** The descriptors of the layers that make up the block device, bottom first. */
function blockDescriptors({ layers }: Manifest): readonly Descriptor[] {
  return layers.filter(({ annotations }) => annotations[ACCELERATION_ANNOTATION] !== 'yes');
}

/** The whole config of an image. Throws ConvertError. */
export async function readConfig(
  { place, stored, manifest }: BlockImage,
  signal: AbortSignal,
): Promise<Readonly<Record<string, unknown>>> {
  const { digest, size } = manifest.config;
  const bad = (why: string, cause?: unknown): ConvertError =>
    new ConvertError(
      `${place.name} cannot be read: its config ${why}`,
      { code: 'manifest', digest: stored.digest },
      { cause },
    );
  if (size > MANIFEST_SIZE_BYTES_MAX) throw bad(`has ${size} bytes`);
  return parseConfig(await collect(place.openBlob({ digest, sizeBytes: size }, signal)), bad);
}

/** The trace that an image ships; undefined when it ships none. Throws ImageError. */
export async function readShippedTrace(
  codec: Codec,
  { place, manifest }: BlockImage,
  signal: AbortSignal,
): Promise<readonly TraceAccess[] | undefined> {
  const blob = traceLayer(manifest);
  if (blob === undefined) return undefined;
  const source = placeSource(place, blob, signal);
  const { offset, sizeBytes } = await findTarPayload(source);
  checkTraceSize(sizeBytes, TRACE_ACCESSES_MAX);
  return parseTrace(await source.read(offset, sizeBytes), codec);
}

/** Of the end of a layer, read at once: the index of its blocks, behind that of its segments. */
function tailBytesOf(sizeBytes: number): number {
  return Math.min(sizeBytes, TAIL_BYTES_MAX, TAIL_BYTES_MIN + Math.ceil(sizeBytes / 512));
}

/** A layer in its place, for who reads its headers and indexes, which nothing checks. */
export function layerSource(place: ImagePlace, blob: BlobRef, signal: AbortSignal): ByteSource {
  const source = placeSource(place, blob, signal);
  const tailBytes = tailBytesOf(blob.sizeBytes);
  const tailAt = blob.sizeBytes - tailBytes;
  let tail: Promise<Uint8Array> | undefined;
  return {
    sizeBytes: blob.sizeBytes,
    read: async (offset, length) => {
      if (offset < tailAt) return source.read(offset, length);
      tail ??= source.read(tailAt, tailBytes);
      return (await tail).subarray(offset - tailAt, offset - tailAt + length);
    },
  };
}

/** A blob in its place, read by parts that nothing checks. */
export function placeSource(place: ImagePlace, blob: BlobRef, signal: AbortSignal): ByteSource {
  return {
    sizeBytes: blob.sizeBytes,
    read: (offset: number, length: number): Promise<Uint8Array> =>
      length === 0
        ? Promise.resolve(new Uint8Array(0))
        : place.readPart(blob, { offset, length }, signal),
  };
}
