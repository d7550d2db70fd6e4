import { digestOf, type Digest } from '../image/digest.ts';
import {
  BLOCK_IMAGE_ARTIFACT_TYPE,
  MANIFEST_MEDIA_TYPES,
  OVERLAYBD_ANNOTATION,
  type Descriptor,
} from '../image/manifest.ts';
import type { Hash } from '../runtime/codec.ts';
import type { AccelerationLayer } from './acceleration-layer.ts';
import type { LayerBlob } from './layer-blob.ts';
import type { StoredManifest } from './places/manifest-parts.ts';

const CONFIG_MEDIA_TYPE = 'application/vnd.oci.image.config.v1+json';
const LAYER_MEDIA_TYPE = 'application/vnd.oci.image.layer.v1.tar';

/** Annotation of a block layer: chain id of the layers of the original image that it completes. */
export const CHAIN_ANNOTATION = 'io.xylem.chain-id';

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
          [`${OVERLAYBD_ANNOTATION}version`]: '0.1.0',
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

/**
 * The history of the original when it tells of as many layers as there are; else one line for each,
 * so that tools which count them agree.
 */
function historyOf({ config, layers }: BlockImageParts): readonly object[] {
  const { history } = config;
  const known: readonly unknown[] = Array.isArray(history) ? history : [];
  const counted = known.filter((step) => Object(step).empty_layer !== true);
  if (counted.length === layers.length) return known.map((step) => Object(step) as object);
  return layers.map(() => ({ created_by: 'xylem convert' }));
}

function encode(hash: Hash, value: unknown): { digest: Digest; bytes: Uint8Array } {
  const bytes = new TextEncoder().encode(JSON.stringify(value));
  return { digest: digestOf(hash, bytes), bytes };
}
