import { withoutDigests } from '../image/block-digests.ts';
import { digestOf, type Digest } from '../image/digest.ts';
import {
  ACCELERATION_ANNOTATION,
  BLOCK_IMAGE_ARTIFACT_TYPE,
  MANIFEST_MEDIA_TYPES,
  OVERLAYBD_ANNOTATION,
  OVERLAYBD_VERSION,
  type Descriptor,
  type Manifest,
  CONFIG_MEDIA_TYPE,
  LAYER_MEDIA_TYPE,
} from '../image/manifest.ts';
import type { Hash } from '../runtime/codec.ts';
import type { AccelerationLayer } from './acceleration-layer.ts';
import type { LayerBlob } from './layer-blob.ts';
import type { StoredManifest } from './places/manifest-parts.ts';

/** Annotation of a block layer: chain id of the layers of the original image that it completes. */
export const CHAIN_ANNOTATION = 'io.xylem.chain-id';

/** Annotation of a kept layer: who put it there, and may remove it. */
export const OWNER_ANNOTATION = 'io.xylem.owner';

/** What makes up a block image. */
export interface BlockImageParts {
  /** Of the original; its `rootfs` and `history` are replaced. */
  readonly config: Readonly<Record<string, unknown>>;
  /** Bottom first; the chain id is undefined for what is made of a directory. */
  readonly layers: readonly { readonly layer: LayerBlob; readonly chainId: Digest | undefined }[];
  readonly acceleration: AccelerationLayer;
  readonly deviceBytes: number;
  readonly annotations: Readonly<Record<string, string>>;
  /** The original's manifest, when the image is to be listed among its referrers. */
  readonly subject?: Pick<Descriptor, 'mediaType' | 'digest' | 'size'> | undefined;
}

/** Manifest and config of a block image, as they are stored. */
export interface EncodedImage {
  readonly manifest: StoredManifest;
  readonly config: { readonly digest: Digest; readonly bytes: Uint8Array };
}

/** Manifest and config of a block image. The same parts give the same bytes. */
export function encodeBlockImage(hash: Hash, parts: BlockImageParts): EncodedImage {
  const { layers, acceleration, subject } = parts;
  const top = acceleration.descriptor;
  const config = encode(hash, {
    ...parts.config,
    rootfs: { type: 'layers', diff_ids: [...layers.map(({ layer }) => layer.digest), top.digest] },
    history: [...historyOf(parts), { created_by: 'xylem convert', comment: 'block digests' }],
  });
  const manifest = encode(hash, {
    schemaVersion: 2,
    mediaType: MANIFEST_MEDIA_TYPES[0],
    ...(subject !== undefined && { artifactType: BLOCK_IMAGE_ARTIFACT_TYPE }),
    config: { mediaType: CONFIG_MEDIA_TYPE, digest: config.digest, size: config.bytes.length },
    layers: [
      ...layers.map(({ layer, chainId }, i) => ({
        mediaType: LAYER_MEDIA_TYPE,
        digest: layer.digest,
        size: layer.sizeBytes,
        annotations: {
          [`${OVERLAYBD_ANNOTATION}blob-digest`]: layer.digest,
          [`${OVERLAYBD_ANNOTATION}blob-size`]: String(layer.sizeBytes),
          [`${OVERLAYBD_ANNOTATION}version`]: OVERLAYBD_VERSION,
          [`${OVERLAYBD_ANNOTATION}blob-fs-type`]: 'ext4',
          [`${OVERLAYBD_ANNOTATION}vsize`]: String(parts.deviceBytes),
          ...(chainId !== undefined && { [CHAIN_ANNOTATION]: chainId }),
          ...acceleration.layerAnnotations[i],
        },
      })),
      top,
    ],
    ...(subject !== undefined && { subject }),
    ...(Object.keys(parts.annotations).length > 0 && { annotations: parts.annotations }),
  });
  const mediaType = MANIFEST_MEDIA_TYPES[0];
  return { config, manifest: { mediaType, ...manifest } };
}

/** Manifest and config of a block image in a place, as they are. */
export interface EncodableImage {
  readonly manifest: Uint8Array;
  readonly config: Readonly<Record<string, unknown>>;
}

/**
 * The image with another acceleration layer on top, in place of the one that it has. All else keeps
 * its value and its order, so that an image which gets its own layer again keeps its digest.
 */
export function withAcceleration(
  hash: Hash,
  image: EncodableImage,
  acceleration: AccelerationLayer,
): EncodedImage {
  const manifest = objectOf(JSON.parse(new TextDecoder().decode(image.manifest)));
  const layers = listOf(manifest['layers']).map(objectOf);
  const isKept = layers.map(
    ({ annotations }) => objectOf(annotations)[ACCELERATION_ANNOTATION] !== 'yes',
  );
  const kept = layers.filter((_, i) => isKept[i]);
  const top = acceleration.descriptor;
  const rootfs = objectOf(image.config['rootfs']);
  // The content of a block layer is its blob.
  const diffIds = kept.map(({ digest }) => digest);
  const config = encode(hash, {
    ...image.config,
    rootfs: { ...rootfs, diff_ids: [...diffIds, top.digest] },
    history: [
      ...stepsOf(image.config['history'], isKept),
      { created_by: 'xylem convert', comment: 'block digests' },
    ],
  });
  const encoded = encode(hash, {
    ...manifest,
    config: { ...objectOf(manifest['config']), digest: config.digest, size: config.bytes.length },
    layers: [
      ...kept.map((layer, i) => ({
        ...layer,
        annotations: {
          ...withoutDigests(objectOf(layer['annotations'])),
          ...acceleration.layerAnnotations[i],
        },
      })),
      top,
    ],
  });
  const { mediaType } = manifest;
  return {
    config,
    manifest: {
      mediaType: typeof mediaType === 'string' ? mediaType : MANIFEST_MEDIA_TYPES[0],
      ...encoded,
    },
  };
}

/**
 * Manifest and config of an ordinary image made of a block image: of one layer, or of one for each
 * block layer.
 */
export function encodePlainImage(
  hash: Hash,
  { manifest }: { readonly manifest: Manifest },
  parts: {
    readonly config: Readonly<Record<string, unknown>>;
    readonly layers: readonly (LayerBlob & { readonly diffId: Digest })[];
    readonly compression: string;
  },
): EncodedImage {
  const { layers, compression } = parts;
  const isKept = manifest.layers.map(
    ({ annotations }) => annotations[ACCELERATION_ANNOTATION] !== 'yes',
  );
  const steps = stepsOf(parts.config['history'], isKept);
  const isOfEach = steps.filter((step) => !isEmptyStep(step)).length === layers.length;
  const exported = { created_by: 'xylem export' };
  const config = encode(hash, {
    ...parts.config,
    rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
    // What was done stays to be read, also where all of it is in one layer.
    history: isOfEach
      ? [...steps, { ...exported, empty_layer: true }]
      : [...steps.map((step) => ({ ...step, empty_layer: true })), exported],
  });
  const [mediaType] = MANIFEST_MEDIA_TYPES;
  const encoded = encode(hash, {
    schemaVersion: 2,
    mediaType,
    config: { mediaType: CONFIG_MEDIA_TYPE, digest: config.digest, size: config.bytes.length },
    layers: layers.map(({ digest, sizeBytes }) => ({
      mediaType: `${LAYER_MEDIA_TYPE}+${compression}`,
      digest,
      size: sizeBytes,
    })),
    ...(Object.keys(manifest.annotations).length > 0 && { annotations: manifest.annotations }),
  });
  return { config, manifest: { mediaType, ...encoded } };
}

/** The steps of a history without those of layers that are not kept. */
function stepsOf(history: unknown, isKept: readonly boolean[]): readonly object[] {
  const steps = listOf(history).map(objectOf);
  const counted = steps.filter((step) => !isEmptyStep(step));
  if (counted.length !== isKept.length) {
    return isKept.filter(Boolean).map(() => ({ created_by: 'xylem convert' }));
  }
  const left = new Set(counted.filter((_, i) => isKept[i] === false));
  return steps.filter((step) => !left.has(step));
}

function isEmptyStep(step: object): boolean {
  return objectOf(step)['empty_layer'] === true;
}

function objectOf(value: unknown): Readonly<Record<string, unknown>> {
  return Object(value) as Record<string, unknown>;
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

/**
 * The history of the original when it tells of as many layers as there are; else one line for each,
 * so that tools which count them agree.
 */
function historyOf({ config, layers }: BlockImageParts): readonly object[] {
  const { history } = config;
  const known: readonly unknown[] = Array.isArray(history) ? history : [];
  const counted = known.filter((step) => !isEmptyStep(Object(step) as object));
  if (counted.length === layers.length) return known.map((step) => Object(step) as object);
  return layers.map(() => ({ created_by: 'xylem convert' }));
}

function encode(hash: Hash, value: unknown): { digest: Digest; bytes: Uint8Array } {
  const bytes = new TextEncoder().encode(JSON.stringify(value));
  return { digest: digestOf(hash, bytes), bytes };
}
