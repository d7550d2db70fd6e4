import { BlockDigests, digestedLayers, type DigestedLayer } from '../../image/block-digests.ts';
import type { BlobRef } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import { blockLayers, traceLayer, type ResolvedImage } from '../../image/manifest.ts';
import type { Codec, Hash } from '../../runtime/codec.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { TouchOrder } from '../../tree/messages.ts';
import { errorText } from '../../util/errors.ts';
import type { BlobReader, LocatedBlob } from '../contracts/blob-reader.ts';
import { TransferError } from '../contracts/errors.ts';
import { tracedOrders } from './traced-blocks.ts';

/** Parts of an agent that open an image; `TransferEngine` has all of them. */
export interface ImageOpener extends BlobReader {
  readonly tree: {
    open(blobs: readonly LocatedBlob[], signal?: AbortSignal, placesMsMax?: number): Promise<void>;
    close(digests: readonly Digest[]): void;
  };
  addDigests(blob: BlobRef, digests: BlockDigests): void;
}

/** Parts of an agent that follow the trace of an image. */
interface TraceFollower {
  readonly codec: Codec;
  readonly logger: Logger;
  /** Takes in the order in which containers touch a blob: its missing blocks are prefetched. */
  order(order: TouchOrder): void;
}

/** An image whose trees this host is in. */
export interface OpenedImage {
  /** Its layers. */
  readonly digests: readonly Digest[];
  /** Leaves the trees. Call it once. */
  close(): void;
}

interface Components {
  readonly engine: ImageOpener;
  readonly hash: Pick<Hash, 'blake3'>;
  /** Absent: the trace that the image ships is left alone. */
  readonly trace?: TraceFollower;
}

/**
 * Joins the trees of an image's layers, and takes over the block digests that it ships before any
 * block of a layer is read. Then it follows the trace that the image ships, without waiting for
 * that: what the trace names is prefetched, behind all demand reads. A trace that cannot be
 * followed costs a line in the log.
 *
 * `placesMsMax`: how long it waits for places in the trees, when not as long as a mount does.
 *
 * Rejects with TransferError, and with ImageError when the image contradicts itself: such an image
 * is not opened at all, since going by attestations instead is what a forger would want.
 */
export async function openImage(
  components: Components,
  image: ResolvedImage,
  signal: AbortSignal,
  options: { readonly placesMsMax?: number } = {},
): Promise<OpenedImage> {
  const { engine, trace } = components;
  const { origin } = image;
  const layers = blockLayers(image.manifest).map((blob) => ({ blob, origin }));
  const digested = digestedLayers(image.manifest);
  const holders = [...new Map(digested.map(({ holder }) => [holder.digest, holder])).values()];
  const digests = layers.map(({ blob }) => blob.digest);
  const closing = new AbortController();
  const wanted = [...layers, ...holders.map((blob) => ({ blob, origin }))];
  await engine.tree.open(wanted, signal, options.placesMsMax);
  try {
    await Promise.all(digested.map((layer) => takeDigests(components, layer, signal)));
    // Before the holders are closed: the trace lies in one of them as a rule.
    if (trace !== undefined) void followTrace({ engine, trace }, image, closing.signal);
  } catch (error) {
    engine.tree.close(digests);
    throw error;
  } finally {
    engine.tree.close(holders.map(({ digest }) => digest));
  }
  return {
    digests,
    close: () => {
      closing.abort();
      engine.tree.close(digests);
    },
  };
}

/** Joins the tree of the trace by itself, so that a bad trace harms no layer. Never rejects. */
async function followTrace(
  { engine, trace }: { engine: ImageOpener; trace: TraceFollower },
  { reference, manifest, origin }: ResolvedImage,
  signal: AbortSignal,
): Promise<void> {
  const { codec, logger } = trace;
  const blob = traceLayer(manifest);
  if (blob === undefined) return;
  try {
    await engine.tree.open([{ blob, origin }], signal);
    const options = { kind: 'prefetch', signal } as const;
    const orders = await tracedOrders({ reader: engine, codec }, manifest, options);
    signal.throwIfAborted();
    for (const order of orders) trace.order(order);
    const blocks = orders.reduce((sum, { indices }) => sum + indices.length, 0);
    if (blocks > 0) logger.info({ reference, blocks }, 'prefetching what the trace names');
  } catch (error) {
    const isOver = error instanceof TransferError && error.code === 'cancelled';
    if (isOver || signal.aborted) return;
    logger.warn({ reference, error: errorText(error) }, 'the trace of the image is not followed');
  } finally {
    engine.tree.close([blob.digest]);
  }
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
