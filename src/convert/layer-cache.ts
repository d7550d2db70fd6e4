import type { BlobRef } from '../image/block.ts';
import { BlockDigests, digestedLayers } from '../image/block-digests.ts';
import { digestHex, digestOf, type Digest } from '../image/digest.ts';
import { parseManifest, type Descriptor, type Manifest } from '../image/manifest.ts';
import type { Codec, Hash } from '../runtime/codec.ts';
import { CodedError } from '../util/errors.ts';
import { makeAccelerationLayer } from './acceleration-layer.ts';
import type { BlockImageOptions } from './block-image-builder.ts';
import { CHAIN_ANNOTATION, encodeBlockImage, OWNER_ANNOTATION } from './block-manifest.ts';
import type { WrittenLayer } from './layer-blob.ts';
import { LAYER_TAG_PREFIX } from './oci-layout.ts';
import type { ImagePlace, ImageTarget } from './places/place.ts';

/** Changes whenever the same layers give other bytes. */
const FORMAT_VERSION = 1;

/** Hex digits of a tag. */
const TAG_DIGITS = 40;

/**
 * Errors that mean that no such tag can be had, or that what it names is not what `keep()` puts
 * there: a user who may push there can have put anything. The layer is made anew then.
 */
const UNUSABLE = new Set([
  ...['not-found', 'layout', 'denied'],
  ...['manifest', 'not-json', 'invalid', 'too-large', 'digest-mismatch'],
  ...['damaged', 'truncated', 'out-of-range'],
]);

/** A kept layer that a conversion found or put there. */
export interface KeptLayer {
  readonly tag: string;
  /** Of the manifest that the tag names. */
  readonly digest: Digest;
  /** What its maker calls itself, where that is known. */
  readonly owner: string | undefined;
  /** The layer, and its block digests. */
  readonly blobs: readonly BlobRef[];
}

/** How layers are looked for and kept. */
export interface LayerCacheInit extends BlockImageOptions {
  /** Written into what is put there. */
  readonly owner?: string | undefined;
  /** Called with each layer that was found or put. */
  readonly onKept?: ((layer: KeptLayer) => void) | undefined;
}

/**
 * Block layers that lie in the target's repository already: each under a tag of its own, as an
 * image of one layer with its block digests, named by the chain id and by how it was made.
 */
export class LayerCache {
  readonly #components: { readonly codec: Codec; readonly hash: Hash };
  readonly #target: ImageTarget;
  readonly #open: (tag: string) => ImagePlace;
  readonly #options: LayerCacheInit;

  /** `open` gives the image with another tag of the target's repository. */
  constructor(
    components: { readonly codec: Codec; readonly hash: Hash },
    place: { readonly target: ImageTarget; readonly open: (tag: string) => ImagePlace },
    options: LayerCacheInit,
  ) {
    this.#components = components;
    this.#target = place.target;
    this.#open = place.open;
    this.#options = options;
  }

  /**
   * The layer that was made of this chain; undefined when there is none, only a part of it, or
   * something else. Whether its blocks are those of the chain shows nothing but `checkImage()`.
   */
  async find(chainId: Digest, signal: AbortSignal): Promise<WrittenLayer | undefined> {
    const place = this.#open(this.#tagOf(chainId));
    try {
      const { bytes, digest } = await place.resolve(signal);
      const manifest = parseManifest(bytes);
      const [layer] = manifest.layers;
      if (layer?.annotations[CHAIN_ANNOTATION] !== chainId) return undefined;
      const blob = { digest: layer.digest, sizeBytes: layer.size };
      if (!(await this.#target.hasBlob(blob, signal))) return undefined;
      const blockDigests = await this.#digestsOf(place, { manifest, blob }, signal);
      if (blockDigests === undefined) return undefined;
      const owner = manifest.annotations[OWNER_ANNOTATION];
      this.#tell(chainId, { digest, owner, blobs: manifest.layers.map(blobOf) });
      return { layer: blob, blockDigests };
    } catch (error) {
      if (error instanceof CodedError && UNUSABLE.has(String(error.code))) return undefined;
      throw error;
    }
  }

  /** The bytes of a layer that was found. */
  read(chainId: Digest, layer: BlobRef, signal: AbortSignal): AsyncIterable<Uint8Array> {
    return this.#open(this.#tagOf(chainId)).openBlob(layer, signal);
  }

  /** Keeps a layer whose blob is in the target. */
  async keep(chainId: Digest, written: WrittenLayer, signal: AbortSignal): Promise<void> {
    const { hash } = this.#components;
    const { owner, deviceBytes } = this.#options;
    const acceleration = makeAccelerationLayer(this.#components, { layers: [written] });
    const { manifest, config } = encodeBlockImage(hash, {
      config: { architecture: 'unknown', os: 'linux' },
      layers: [{ layer: written.layer, chainId }],
      acceleration,
      deviceBytes,
      annotations: owner === undefined ? {} : { [OWNER_ANNOTATION]: owner },
    });
    await putBytes(this.#target, acceleration.descriptor.digest, acceleration.bytes, signal);
    await putBytes(this.#target, config.digest, config.bytes, signal);
    await this.#target.putManifest(manifest, this.#tagOf(chainId), signal);
    const blobs = [written.layer, blobOf(acceleration.descriptor)];
    this.#tell(chainId, { digest: manifest.digest, owner, blobs });
  }

  #tell(chainId: Digest, { digest, owner, blobs }: Omit<KeptLayer, 'tag'>): void {
    this.#options.onKept?.({ tag: this.#tagOf(chainId), digest, owner, blobs });
  }

  async #digestsOf(
    place: ImagePlace,
    { manifest, blob }: { readonly manifest: Manifest; readonly blob: BlobRef },
    signal: AbortSignal,
  ): Promise<BlockDigests | undefined> {
    const layer = digestedLayers(manifest).find((each) => each.blob.digest === blob.digest);
    if (layer === undefined) return undefined;
    const { holder, offset, sizeBytes } = layer;
    const part = await place.readPart(holder, { offset, length: sizeBytes }, signal);
    return BlockDigests.parse(this.#components.hash, layer, part);
  }

  #tagOf(chainId: Digest): string {
    const { deviceBytes, compression } = this.#options;
    const { algorithm, blockSizeBytes } = compression;
    const made = [FORMAT_VERSION, chainId, deviceBytes, algorithm, blockSizeBytes].join(' ');
    const digest = digestOf(this.#components.hash, new TextEncoder().encode(made));
    return `${LAYER_TAG_PREFIX}${digestHex(digest).slice(0, TAG_DIGITS)}`;
  }
}

function blobOf({ digest, size }: Pick<Descriptor, 'digest' | 'size'>): BlobRef {
  return { digest, sizeBytes: size };
}

/** Puts a blob that is in memory. */
export async function putBytes(
  target: ImageTarget,
  digest: Digest,
  bytes: Uint8Array,
  signal: AbortSignal,
): Promise<void> {
  const open = async function* (): AsyncGenerator<Uint8Array> {
    yield bytes;
  };
  await target.putBlob({ digest, sizeBytes: bytes.length }, open, { signal });
}
