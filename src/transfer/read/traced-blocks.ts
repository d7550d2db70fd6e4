import {
  BLOCK_SIZE_BYTES,
  blocksOfRange,
  type BlobRef,
  type BlockIndex,
} from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { ByteSource } from '../../image/byte-source.ts';
import { openLayer, type Layer } from '../../image/layer.ts';
import {
  blockLayers,
  OVERLAYBD_ANNOTATION,
  type Descriptor,
  type Manifest,
} from '../../image/manifest.ts';
import { findTarPayload } from '../../image/tar.ts';
import { parseTrace } from '../../image/trace.ts';
import type { Codec } from '../../runtime/codec.ts';
import { defined } from '../../util/assert.ts';
import type { BlobReader } from '../contracts/blob-reader.ts';

/** A block to be brought in. */
export interface PlannedBlock {
  readonly blob: BlobRef;
  readonly index: BlockIndex;
}

/**
 * The blocks that the trace of an image names, in its order, behind those that opening the image reads. Empty when it ships no trace,
 * or one of no reads. Rejects with ImageError and TransferError.
 */
export async function tracedBlocks(
  components: { reader: BlobReader; codec: Codec },
  manifest: Manifest,
  signal: AbortSignal,
): Promise<readonly PlannedBlock[]> {
  const shipped = manifest.layers.findLast(isAcceleration);
  if (shipped === undefined) return [];
  const plan = new Plan();
  const holder = sourceOf(
    components.reader,
    { digest: shipped.digest, sizeBytes: shipped.size },
    { plan, signal },
  );
  const { offset, sizeBytes } = await findTarPayload(holder);
  const accesses = parseTrace(await holder.read(offset, sizeBytes), components.codec);
  const reads = accesses.filter(({ op, length }) => op === 'read' && length > 0);
  if (reads.length === 0) return [];
  const blobs = blockLayers(manifest);
  const layers = await Promise.all(
    blobs.map((blob) =>
      openLayer(sourceOf(components.reader, blob, { plan, signal }), components.codec),
    ),
  );
  for (const { layer, offset: at, length } of reads) {
    const blob = blobs[layer];
    // A trace of another version of the image may name what this one has not got.
    if (blob !== undefined)
      addRead(plan, blob, { layer: defined(layers[layer], 'opened'), at, length });
  }
  return plan.blocks;
}

function addRead(
  plan: Plan,
  blob: BlobRef,
  read: { readonly layer: Layer; readonly at: number; readonly length: number },
): void {
  const { body } = read.layer;
  const end = Math.min(read.at + read.length, body.sizeBytes);
  if (read.at >= end) return;
  body.visitRanges(read.at, end - read.at, (offset, length) => plan.add(blob, offset, length));
}

function isAcceleration(layer: Descriptor): boolean {
  return layer.annotations[`${OVERLAYBD_ANNOTATION}acceleration-layer`] === 'yes';
}

/** A blob as a source whose reads become part of the plan. */
function sourceOf(
  reader: BlobReader,
  blob: BlobRef,
  init: { readonly plan: Plan; readonly signal: AbortSignal },
): ByteSource {
  return {
    sizeBytes: blob.sizeBytes,
    read: (offset, length) => {
      init.plan.add(blob, offset, length);
      return reader.read(blob, offset, length, { kind: 'demand', signal: init.signal });
    },
  };
}

/** Blocks in the order in which they were first named. */
class Plan {
  readonly blocks: PlannedBlock[] = [];
  readonly #named = new Map<Digest, Set<BlockIndex>>();

  add(blob: BlobRef, offset: number, length: number): void {
    if (length === 0) return;
    const named = this.#named.get(blob.digest) ?? new Set();
    this.#named.set(blob.digest, named);
    for (const index of blocksOfRange(offset, length)) {
      if (named.has(index) || index * BLOCK_SIZE_BYTES >= blob.sizeBytes) continue;
      named.add(index);
      this.blocks.push({ blob, index });
    }
  }
}
