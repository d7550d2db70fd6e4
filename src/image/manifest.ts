import { BLOB_SIZE_BYTES_MAX, type BlobOrigin, type BlobRef } from './block.ts';
import { parseDigest, type Digest } from './digest.ts';
import { CodedError } from '../util/errors.ts';

/** Media types of an image manifest; the first one is the default. */
export const MANIFEST_MEDIA_TYPES = [
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v2+json',
] as const;
/** Media type of the config of an image. */
export const CONFIG_MEDIA_TYPE = 'application/vnd.oci.image.config.v1+json';
/** Media type of a layer that is not compressed. */
export const LAYER_MEDIA_TYPE = 'application/vnd.oci.image.layer.v1.tar';
/** Media types of an image index, which lists manifests by platform. */
export const INDEX_MEDIA_TYPES = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
] as const;

/**
 * What a reader of manifests takes: any type, the usual ones first. What a registry converts for
 * older clients has another digest.
 */
export const MANIFEST_ACCEPT = [...MANIFEST_MEDIA_TYPES, ...INDEX_MEDIA_TYPES, '*/*'].join(', ');

/**
 * Largest manifest in bytes: registries accept up to 4 MiB (distribution spec, "Pushing
 * Manifests").
 */
export const MANIFEST_SIZE_BYTES_MAX = 4 * 1024 * 1024;

/**
 * Most layers of an image. overlaybd stacks at most 255 (LSMT has one byte for the layer's number);
 * other images have far fewer.
 */
export const LAYER_COUNT_MAX = 255;

/** Prefix of the annotations of an overlaybd layer. */
export const OVERLAYBD_ANNOTATION = 'containerd.io/snapshot/overlaybd/';

/** Version of overlaybd's layers, as the annotation `version` has it. */
export const OVERLAYBD_VERSION = '0.1.0';

/**
 * The value `yes` marks an acceleration layer: it ships a trace and is no part of the block device.
 */
export const ACCELERATION_ANNOTATION = `${OVERLAYBD_ANNOTATION}acceleration-layer`;

/** Type of a block image among the referrers of its original, as overlaybd names it. */
export const BLOCK_IMAGE_ARTIFACT_TYPE = 'application/vnd.containerd.overlaybd.native.v1+json';

/** A blob that a manifest names, with its size in bytes. */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly size: number;
  readonly annotations: Readonly<Record<string, string>>;
  /** Where else its bytes are, as the image says. */
  readonly urls?: readonly string[];
}

/** A checked image manifest. */
export interface Manifest {
  readonly mediaType: string;
  readonly config: Descriptor;
  /** Bottom first. */
  readonly layers: readonly Descriptor[];
  readonly annotations: Readonly<Record<string, string>>;
}

/** An image, as a device is made of it. */
export interface DeviceImage {
  /** The user's name for it. */
  readonly reference: string;
  readonly digest: Digest;
  readonly manifest: Manifest;
}

/** An image, and where its blobs are. */
export interface ResolvedImage extends DeviceImage {
  readonly origin: BlobOrigin;
}

class ManifestError extends CodedError<
  | { readonly code: 'not-json' }
  | { readonly code: 'too-large'; readonly sizeBytes: number }
  | { readonly code: 'invalid'; readonly field: string }
> {}

/** The layers that make up the block device, bottom first: all except acceleration layers. */
export function blockLayers(manifest: Manifest): readonly BlobRef[] {
  return manifest.layers.filter((layer) => !isAcceleration(layer)).map(refOf);
}

/** The layer that ships the trace of a container's start; undefined when the image has none. */
export function traceLayer(manifest: Manifest): BlobRef | undefined {
  const layer = manifest.layers.findLast(isAcceleration);
  return layer === undefined ? undefined : refOf(layer);
}

function isAcceleration({ annotations }: Descriptor): boolean {
  return annotations[ACCELERATION_ANNOTATION] === 'yes';
}

function refOf({ digest, size }: Descriptor): BlobRef {
  return { digest, sizeBytes: size };
}

/** Reads a manifest and checks each field. Throws ManifestError. */
export function parseManifest(bytes: Uint8Array): Manifest {
  if (bytes.length > MANIFEST_SIZE_BYTES_MAX) {
    throw new ManifestError(
      `manifest has ${bytes.length} bytes; the limit is ${MANIFEST_SIZE_BYTES_MAX}`,
      {
        code: 'too-large',
        sizeBytes: bytes.length,
      },
    );
  }
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new ManifestError('manifest is not JSON', { code: 'not-json' }, { cause });
  }
  const root = objectAt(json, 'manifest');
  // Encoders of Go leave null, or nothing, where a list or a map is empty.
  const layers = root['layers'] ?? [];
  if (!Array.isArray(layers) || layers.length > LAYER_COUNT_MAX) {
    throw invalid('layers', `must be a list of at most ${LAYER_COUNT_MAX} layers`);
  }
  return {
    mediaType: typeof root['mediaType'] === 'string' ? root['mediaType'] : MANIFEST_MEDIA_TYPES[0],
    config: descriptorAt(root['config'], 'config'),
    layers: layers.map((layer, i) => descriptorAt(layer, `layers[${i}]`)),
    annotations: annotationsAt(root['annotations'], 'annotations'),
  };
}

function invalid(field: string, rule: string): ManifestError {
  return new ManifestError(`manifest field ${field} ${rule}`, { code: 'invalid', field });
}

function objectAt(value: unknown, field: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalid(field, 'must be an object');
  }
  return value as Record<string, unknown>;
}

function descriptorAt(value: unknown, field: string): Descriptor {
  const object = objectAt(value, field);
  const digest = typeof object['digest'] === 'string' ? parseDigest(object['digest']) : undefined;
  if (digest === undefined) throw invalid(`${field}.digest`, `must be a sha256 digest`);
  const size = object['size'];
  if (
    typeof size !== 'number' ||
    !Number.isSafeInteger(size) ||
    size < 0 ||
    size > BLOB_SIZE_BYTES_MAX
  ) {
    throw invalid(`${field}.size`, `must be a number of bytes up to ${BLOB_SIZE_BYTES_MAX}`);
  }
  const mediaType = object['mediaType'];
  if (typeof mediaType !== 'string') throw invalid(`${field}.mediaType`, 'must be a string');
  const urls = urlsIn(object['urls']);
  return {
    mediaType,
    digest,
    size,
    annotations: annotationsAt(object['annotations'], `${field}.annotations`),
    ...(urls.length > 0 && { urls }),
  };
}

function urlsIn(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.filter((url) => typeof url === 'string' && url !== '') : [];
}

/**
 * Whether the registry need not have the blob: it may not be passed on, or is to be had elsewhere.
 */
export function isForeign({ mediaType, urls = [] }: Descriptor): boolean {
  return urls.length > 0 || /\.(?:foreign|nondistributable)\./.test(mediaType);
}

function annotationsAt(value: unknown, field: string): Record<string, string> {
  if (value === undefined || value === null) return {};
  const object = objectAt(value, field);
  for (const [key, text] of Object.entries(object)) {
    if (typeof text !== 'string') throw invalid(`${field}.${key}`, 'must be a string');
  }
  return object as Record<string, string>;
}

/** The digests that an image index lists; none when it is no sound one. */
export function indexDigests(bytes: Uint8Array): readonly Digest[] {
  try {
    const { manifests } = Object(JSON.parse(new TextDecoder().decode(bytes)));
    if (!Array.isArray(manifests)) return [];
    return manifests.flatMap((entry: unknown) => {
      const { digest } = Object(entry) as Record<string, unknown>;
      return parseDigest(String(digest)) ?? [];
    });
  } catch {
    return [];
  }
}

/** The blobs of an image that a pull or a mount reads, each once. Empty blobs are left out. */
export function blobsOf(manifest: Manifest): readonly BlobRef[] {
  const blobs = new Map<Digest, BlobRef>();
  for (const { digest, size } of [manifest.config, ...manifest.layers]) {
    if (size > 0) blobs.set(digest, { digest, sizeBytes: size });
  }
  return [...blobs.values()];
}
