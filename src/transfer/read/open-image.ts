import { BlockDigests, digestedLayers, type DigestedLayer } from '../../image/block-digests.ts';
import type { BlobRef } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import { blockLayers, type ResolvedImage } from '../../image/manifest.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { BlobReader, LocatedBlob } from '../contracts/blob-reader.ts';

/** What opening an image takes of an agent; `TransferEngine` has all of it. */
export interface ImageOpener extends BlobReader {
  readonly tree: {
    open(blobs: readonly LocatedBlob[], signal?: AbortSignal): Promise<void>;
    close(digests: readonly Digest[]): void;
  };
  addDigests(blob: BlobRef, digests: BlockDigests): void;
}

/**
 * Joins the trees of an image's layers, and takes over the block digests that it ships before any block of a layer is read. Gives the
 * layers' digests, to be closed once each. Rejects with TransferError, and with ImageError when the image contradicts itself:
 * such an image is not opened at all, since going by attestations instead is what a forger would want.
 */
export async function openImage(
  components: { engine: ImageOpener; hash: Pick<Hash, 'blake3'> },
  image: ResolvedImage,
  signal: AbortSignal,
): Promise<readonly Digest[]> {
  const { engine } = components;
  const { origin } = image;
  const layers = blockLayers(image.manifest).map((blob) => ({ blob, origin }));
  const digested = digestedLayers(image.manifest);
  const holders = [...new Map(digested.map(({ holder }) => [holder.digest, holder])).values()];
  const digests = layers.map(({ blob }) => blob.digest);
  await engine.tree.open([...layers, ...holders.map((blob) => ({ blob, origin }))], signal);
  try {
    await Promise.all(digested.map((layer) => takeDigests(components, layer, signal)));
  } catch (error) {
    engine.tree.close(digests);
    throw error;
  } finally {
    engine.tree.close(holders.map(({ digest }) => digest));
  }
  return digests;
}

async function takeDigests(
  { engine, hash }: { engine: ImageOpener; hash: Pick<Hash, 'blake3'> },
  layer: DigestedLayer,
  signal: AbortSignal,
): Promise<void> {
  const options = { kind: 'demand', signal } as const;
  const bytes = await engine.read(layer.holder, layer.offset, layer.sizeBytes, options);
  engine.addDigests(layer.blob, BlockDigests.parse(hash, layer, bytes));
}
