import type { Digest } from '../image/digest.ts';
import { blockLayers } from '../image/manifest.ts';
import type { Codec, Hash } from '../runtime/codec.ts';
import { makeAccelerationLayer } from './acceleration-layer.ts';
import { readConfig, type BlockImage } from './block-image.ts';
import { withAcceleration } from './block-manifest.ts';
import type { CheckedLayers } from './checked-layers.ts';
import type { ProgressOptions } from './layer-blob.ts';
import { putBytes } from './layer-cache.ts';
import { readParts } from './places/manifest-parts.ts';
import type { ImageTarget } from './places/place.ts';

/** An image that ships a trace. */
export interface ShippedTrace {
  readonly digest: Digest;
  readonly accelerationLayer: { readonly digest: Digest; readonly sizeBytes: number };
}

/**
 * Puts an image into a place with this trace in its acceleration layer. The block layers are as
 * they were; block digests are kept, or made where the image ships none. Nothing is tagged before
 * all is there. Throws ConvertError, RegistryError, ImageError, or the signal's reason.
 */
export async function shipTrace(
  components: { readonly codec: Codec; readonly hash: Hash },
  image: BlockImage & { readonly layers: CheckedLayers },
  { trace, target }: { readonly trace: Uint8Array; readonly target: ImageTarget },
  options: ProgressOptions & { readonly signal: AbortSignal },
): Promise<ShippedTrace> {
  const { place, stored, manifest, layers } = image;
  const { signal, onProgress } = options;
  try {
    const blobs = blockLayers(manifest);
    const acceleration = makeAccelerationLayer(components, {
      layers: blobs.map((blob) => layers.written(blob)),
      trace,
    });
    const config = await readConfig(image, signal);
    const parts = { manifest: stored.bytes, config };
    const encoded = withAcceleration(components.hash, parts, acceleration);
    for (const [i, blob] of blobs.entries()) {
      await target.putBlob(blob, () => place.openBlob(blob, signal), {
        signal,
        from: place,
        onProgress: (done) =>
          onProgress?.(`copying layer ${i + 1} of ${blobs.length}`, done, blob.sizeBytes),
      });
    }
    const { descriptor, bytes } = acceleration;
    await putBytes(target, descriptor.digest, bytes, signal);
    await putBytes(target, encoded.config.digest, encoded.config.bytes, signal);
    const { subject } = readParts(encoded.manifest);
    if (subject !== undefined) await target.addReferrer(encoded.manifest, signal);
    await target.putManifest(encoded.manifest, target.tag, signal);
    await target.finish(signal);
    const accelerationLayer = { digest: descriptor.digest, sizeBytes: descriptor.size };
    return { digest: encoded.manifest.digest, accelerationLayer };
  } finally {
    await target.discard();
  }
}
