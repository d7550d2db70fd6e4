import type { BlobRef } from '../image/block.ts';
import { parseDigest, type Digest } from '../image/digest.ts';
import type { DeviceImage } from '../image/manifest.ts';

/** A block layer of an image. */
export interface ChainLayer {
  readonly digest: Digest;
  readonly sizeBytes: number;
  /** A file of this host that is the layer, without its tar: read instead of the blob. */
  readonly file?: string;
}

/** The block layers of an image from the bottom up to one of its layers: one device. */
export interface Chain {
  /** Chain id of the top layer (OCI image config, "Layer ChainID"): the key of the device. */
  readonly chainId: string;
  /** `host/name[:tag][@digest]`; empty only when every layer has a file. */
  readonly reference: string;
  readonly manifestDigest?: Digest;
  /** Bottom first. */
  readonly layers: readonly ChainLayer[];
}

/** Has images open, so that their blobs can be read; `AgentLink`. */
export interface ImageOpener {
  open(
    image: {
      readonly reference: string;
      readonly manifestDigest?: Digest | undefined;
      readonly layers: readonly BlobRef[];
    },
    signal: AbortSignal,
    options: {
      /** It is in use: no failure is the last, and nobody asks whether it exists. */
      readonly isMounted: boolean;
    },
  ): Promise<Opened>;
  /** Everything that an earlier process had open is open again, or is no longer wanted. */
  settled(): void;
}

/** An image whose layers can be read. */
export interface Opened {
  /** When the agent could find it out. */
  readonly manifest?: Uint8Array | undefined;
  close(): void;
}

/** In the record of a mount: the layer is this file. */
export const FILE_ANNOTATION = 'xylem/file';

/** In the record of a mount: the digest of the image's own manifest. */
export const MANIFEST_ANNOTATION = 'xylem/manifest';

/** The chain of a mounted image, as far as its blobs are concerned. */
export function chainOf({ reference, digest, manifest }: DeviceImage): Chain {
  const layers = manifest.layers.map(({ digest: layer, size, annotations }) => {
    const file = annotations[FILE_ANNOTATION];
    return { digest: layer, sizeBytes: size, ...(file !== undefined && { file }) };
  });
  const manifestDigest = parseDigest(manifest.annotations[MANIFEST_ANNOTATION] ?? '');
  return {
    ...{ chainId: digest, reference, layers },
    ...(manifestDigest !== undefined && { manifestDigest }),
  };
}

/** Whether layers are the first ones of others. */
export function isStart(layers: readonly ChainLayer[], of: readonly ChainLayer[]): boolean {
  return layers.every(({ digest, sizeBytes }, i) => {
    const other = of[i];
    return other?.digest === digest && other.sizeBytes === sizeBytes;
  });
}
