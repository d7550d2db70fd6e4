import {
  BLOCK_SIZE_BYTES,
  blockCount,
  blockIndex,
  blockLength,
  blocksOfRange,
  type BlobRef,
  type BlockIndex,
} from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import type { ByteSource } from '../image/byte-source.ts';
import { openLayer, type Layer } from '../image/layer.ts';
import {
  blockLayers,
  OVERLAYBD_ANNOTATION,
  type Descriptor,
  type Manifest,
} from '../image/manifest.ts';
import { findTarPayload } from '../image/tar.ts';
import { parseTrace } from '../image/trace.ts';
import type { Codec } from '../runtime/codec.ts';
import { defined } from '../util/assert.ts';
import type { BlobReader } from './contracts/blob-reader.ts';

/** A block to be brought in. */
export interface PlannedBlock {
  readonly blob: BlobRef;
  readonly index: BlockIndex;
}

/** The blobs of an image, each once: what a pull reads, and what a mount reads. Empty ones have nothing to bring. */
export function blobsOf(manifest: Manifest): readonly BlobRef[] {
  const blobs = new Map<Digest, BlobRef>();
  for (const { digest, size } of [manifest.config, ...manifest.layers]) {
    if (size > 0) blobs.set(digest, { digest, sizeBytes: size });
  }
  return [...blobs.values()];
}

/**
 * All blocks of the blobs, all blobs at one pace, so that all their trees carry at the same time (docs/TREES.md). Named one by one, since
 * an image may have millions.
 */
export function* wholeImage(blobs: readonly BlobRef[]): Generator<PlannedBlock, void, void> {
  const rows = blobs.map((blob) => ({ blob, next: 0, count: blockCount(blob.sizeBytes) }));
  for (;;) {
    let first: (typeof rows)[number] | undefined;
    for (const row of rows) {
      if (row.next === row.count) continue;
      if (first === undefined || row.next / row.count < first.next / first.count) first = row;
    }
    if (first === undefined) return;
    yield { blob: first.blob, index: blockIndex(first.next++) };
  }
}

export function bytesOf(blocks: readonly PlannedBlock[]): number {
  return blocks.reduce((sum, { blob, index }) => sum + blockLength(blob.sizeBytes, index), 0);
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
