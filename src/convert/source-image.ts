import type { BlobRef } from '../image/block.ts';
import { digestOf, parseDigest, type Digest } from '../image/digest.ts';
import {
  MANIFEST_SIZE_BYTES_MAX,
  OVERLAYBD_ANNOTATION,
  parseManifest,
  type Descriptor,
  type Manifest,
} from '../image/manifest.ts';
import { isIndex, platformIn, type Platform } from '../registry/platform.ts';
import type { Hash } from '../runtime/codec.ts';
import { errorText } from '../util/errors.ts';
import { ConvertError } from './errors.ts';
import { readParts, type StoredManifest } from './places/manifest-parts.ts';
import type { ImagePlace } from './places/place.ts';

/** A layer of an ordinary image. */
export interface SourceLayer {
  /** As it lies in the place, mostly compressed. */
  readonly blob: BlobRef;
  /** Digest of the uncompressed tar. */
  readonly diffId: Digest;
  readonly chainId: Digest;
  readonly parentChainId: Digest | undefined;
}

/** An ordinary image of one platform. */
export interface SourceImage {
  readonly digest: Digest;
  readonly manifest: Manifest;
  /** The whole config. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly platform: Platform;
  /** Bottom first. */
  readonly layers: readonly SourceLayer[];
}

/**
 * Reads config and layers of an ordinary image. Throws ConvertError when it is none, and what the
 * place throws.
 */
export async function readSourceImage(
  hash: Hash,
  place: ImagePlace,
  use: {
    readonly stored: StoredManifest;
    /** What it is read for, as an error says it. */
    readonly purpose: 'converted' | 'compared with';
    readonly signal: AbortSignal;
  },
): Promise<SourceImage> {
  const { stored, purpose, signal } = use;
  const bad = (why: string, cause?: unknown): ConvertError =>
    new ConvertError(
      `${place.name} cannot be ${purpose}: ${why}`,
      { code: 'manifest', digest: stored.digest },
      { cause },
    );
  if (isIndex(stored)) throw bad('it is an index within an index');
  // It tells what is no manifest of today.
  readParts(stored);
  const manifest = parseManifest(stored.bytes);
  if (manifest.layers.some(isBlockLayer)) throw bad('it is a block image already');
  const { digest, size } = manifest.config;
  if (size > MANIFEST_SIZE_BYTES_MAX) throw bad(`its config has ${size} bytes`);
  const bytes = await collect(place.openBlob({ digest, sizeBytes: size }, signal));
  const config = parseConfig(bytes, bad);
  const diffIds = diffIdsOf(config);
  if (diffIds.length !== manifest.layers.length) {
    throw bad(
      `its config names the content of ${diffIds.length} layers, but its manifest has ` +
        `${manifest.layers.length} (is it an artifact, and no image?)`,
    );
  }
  let parentChainId: Digest | undefined;
  const layers = manifest.layers.map((layer, i): SourceLayer => {
    const named = diffIds[i];
    const diffId = typeof named === 'string' ? parseDigest(named) : undefined;
    if (diffId === undefined) {
      const shown = JSON.stringify(named)?.slice(0, 100);
      throw bad(`its config names ${shown} as a layer, which is no sha256 digest`);
    }
    const below = parentChainId;
    const chainId = chainIdOf(hash, below, diffId);
    parentChainId = chainId;
    const blob = { digest: layer.digest, sizeBytes: layer.size };
    return { blob, diffId, chainId, parentChainId: below };
  });
  if (layers.length === 0) throw bad('it has no layers');
  const platform = platformIn(config);
  if (platform.os !== 'linux')
    throw bad(`it is made for ${platform.os}, and block images hold ext4`);
  return { digest: stored.digest, manifest, config, platform, layers };
}

/** The chain id of a layer over the chain below it. */
function chainIdOf(hash: Hash, below: Digest | undefined, diffId: Digest): Digest {
  if (below === undefined) return diffId;
  return digestOf(hash, new TextEncoder().encode(`${below} ${diffId}`));
}

/** The bytes of a small blob. */
export async function collect(pieces: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const piece of pieces) parts.push(piece);
  return Buffer.concat(parts);
}

/** Whether a layer is one of a block image, by its annotations. */
export function isBlockLayer({ annotations }: Pick<Descriptor, 'annotations'>): boolean {
  return annotations[`${OVERLAYBD_ANNOTATION}blob-digest`] !== undefined;
}

/** Reads the config of an image; `bad` makes the error when it is none. */
export function parseConfig(
  bytes: Uint8Array,
  bad: (why: string, cause?: unknown) => ConvertError,
): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
      // It is written again, which is not done for any depth.
      JSON.stringify(value);
      return value as Record<string, unknown>;
    }
  } catch (cause) {
    throw bad(`its config is not JSON that can be kept: ${errorText(cause)}`, cause);
  }
  throw bad('its config is no JSON object');
}

function diffIdsOf(config: Readonly<Record<string, unknown>>): readonly unknown[] {
  const { diff_ids: ids } = Object(config['rootfs']) as Record<string, unknown>;
  return Array.isArray(ids) ? ids : [];
}
