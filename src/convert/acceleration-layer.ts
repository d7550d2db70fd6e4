import { digestsAnnotations } from '../image/block-digests.ts';
import { digestHex, digestOf } from '../image/digest.ts';
import {
  ACCELERATION_ANNOTATION,
  OVERLAYBD_ANNOTATION,
  type Descriptor,
  LAYER_MEDIA_TYPE,
} from '../image/manifest.ts';
import { tarOf } from '../image/tar.ts';
import { encodeTrace } from '../image/trace.ts';
import type { Codec, Hash } from '../runtime/codec.ts';
import { defined } from '../util/assert.ts';
import type { WrittenLayer } from './layer-blob.ts';

/** The acceleration layer of an image, and the annotations that point into it. */
export interface AccelerationLayer {
  readonly bytes: Uint8Array;
  /** Topmost layer of the manifest; its digest is also its diff id. */
  readonly descriptor: Descriptor;
  /** Further annotations of each layer, bottom first. */
  readonly layerAnnotations: readonly Readonly<Record<string, string>>[];
}

/**
 * Makes the acceleration layer of an image: a tar with the trace of a start and
 * the block digests of each layer.
 *
 *     trace                      an empty one by default
 *     block-digests/<sha256>     of the layer with this digest (src/image/block-digests.ts)
 *
 * Registries and containerd treat it as any other layer: containerd requires as many layers as diff
 * ids, and can unpack this one. overlaybd takes the topmost layer with this annotation out of the
 * stack and looks for `trace` in it. Therefore the tar always has a trace: a trace without accesses
 * prefetches nothing.
 */
export function makeAccelerationLayer(
  components: { codec: Codec; hash: Hash },
  content: { layers: readonly WrittenLayer[]; trace?: Uint8Array },
): AccelerationLayer {
  const { codec, hash } = components;
  const { layers, trace = encodeTrace([], codec) } = content;
  const { bytes, offsets } = tarOf([
    { name: 'trace', bytes: trace },
    ...layers.map(({ layer, blockDigests }) => ({
      name: `block-digests/${digestHex(layer.digest)}`,
      bytes: blockDigests.bytes,
    })),
  ]);
  const digest = digestOf(hash, bytes);
  return {
    bytes,
    descriptor: {
      mediaType: LAYER_MEDIA_TYPE,
      digest,
      size: bytes.length,
      annotations: {
        [ACCELERATION_ANNOTATION]: 'yes',
        [`${OVERLAYBD_ANNOTATION}blob-digest`]: digest,
        [`${OVERLAYBD_ANNOTATION}blob-size`]: String(bytes.length),
      },
    },
    layerAnnotations: layers.map(({ blockDigests }, i) => {
      const offset = defined(offsets[i + 1], 'there is an entry for each layer');
      return digestsAnnotations(hash, blockDigests, { holder: digest, offset });
    }),
  };
}
