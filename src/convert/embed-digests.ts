import { BLOCK_DIGESTS_MEDIA_TYPE, blockDigestsAnnotations } from '../image/block-digests.ts';
import type { BlockDigests } from '../image/block-digests.ts';
import { OVERLAYBD_ANNOTATION, type Descriptor } from '../image/manifest.ts';
import type { Hash } from '../runtime/codec.ts';
import { digestOf } from './layer-blob.ts';
import { putBlob } from './oci-layout.ts';

/** What a manifest says of a layer's digest blob. */
export interface EmbeddedDigests {
  /** To be listed after the layers of the image: so registries keep it, and tools that copy images copy it. */
  readonly descriptor: Descriptor;
  /** To be added to those of the layer. */
  readonly layerAnnotations: Readonly<Record<string, string>>;
}

/**
 * Keeps the block digests of a layer in an OCI layout. Its media type is that of no layer, so that containerd has nothing to unpack
 * (and no diff id to look for); tools that go by overlaybd's annotations skip it like any acceleration layer. Throws ConvertError.
 */
export async function embedDigests(
  components: { hash: Hash },
  directory: string,
  digests: BlockDigests,
): Promise<EmbeddedDigests> {
  const { bytes } = digests;
  const digest = digestOf(components.hash, bytes);
  await putBlob(directory, digest, bytes);
  return {
    descriptor: {
      mediaType: BLOCK_DIGESTS_MEDIA_TYPE,
      digest,
      size: bytes.length,
      annotations: { [`${OVERLAYBD_ANNOTATION}acceleration-layer`]: 'yes' },
    },
    layerAnnotations: blockDigestsAnnotations(components.hash, { digest, bytes }),
  };
}
