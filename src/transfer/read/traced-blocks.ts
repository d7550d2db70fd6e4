import {
  BLOCK_SIZE_BYTES,
  blockCount,
  blockIndex,
  type BlobRef,
  type BlockIndex,
} from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { ByteSource } from '../../image/byte-source.ts';
import { imageBudget, openLayer } from '../../image/layer.ts';
import { blockLayers, traceLayer, type Manifest } from '../../image/manifest.ts';
import { findTarPayload } from '../../image/tar.ts';
import { checkTraceSize, parseTrace, TRACE_ACCESSES_MAX } from '../../image/trace.ts';
import type { Codec } from '../../runtime/codec.ts';
import { ORDER_BLOCKS_MAX } from '../../tree/limits.ts';
import type { TouchOrder } from '../../tree/messages.ts';
import type { BlobReader, ReadOptions } from '../contracts/blob-reader.ts';

/**
 * Accesses of the largest trace that a mount follows. Parsing takes 0.25 us each on the event loop:
 * 32 ms, a tenth of the silence after which peers give a host up.
 */
export const MOUNT_ACCESSES_MAX = 2 ** 17;

/** A block to be brought in. */
export interface PlannedBlock {
  readonly blob: BlobRef;
  readonly index: BlockIndex;
}

interface Components {
  readonly reader: BlobReader;
  readonly codec: Codec;
}

/**
 * The blocks that the trace of an image names, in its order, after the blocks that opening the
 * image reads. Empty when it ships no trace, or one of no reads. Rejects with ImageError and
 * TransferError.
 */
export async function tracedBlocks(
  { reader, codec }: Components,
  manifest: Manifest,
  signal: AbortSignal,
): Promise<readonly PlannedBlock[]> {
  const plan = new Plan();
  const open = (blob: BlobRef): ByteSource => {
    const source = sourceOf(reader, blob, { kind: 'demand', signal });
    return {
      ...source,
      read: (offset, length) => {
        plan.add(blob, offset, length);
        return source.read(offset, length);
      },
    };
  };
  const hasReads = await planTrace({ open, codec, plan }, manifest, TRACE_ACCESSES_MAX);
  return hasReads ? plan.blocks : [];
}

/**
 * The order in which containers touch the blocks of an image, as its shipped trace says: one run of
 * blocks of a blob after another, at most `ORDER_BLOCKS_MAX` blocks in all. Empty when the image
 * ships no trace, or one of no reads. Reads the trace and what opening the layers reads, as
 * `options` say. Rejects with ImageError and TransferError.
 */
export async function tracedOrders(
  { reader, codec }: Components,
  manifest: Manifest,
  options: ReadOptions,
): Promise<readonly TouchOrder[]> {
  const plan = new Plan(ORDER_BLOCKS_MAX);
  const open = (blob: BlobRef): ByteSource => sourceOf(reader, blob, options);
  await planTrace({ open, codec, plan }, manifest, MOUNT_ACCESSES_MAX);
  const orders: { readonly digest: Digest; readonly indices: BlockIndex[] }[] = [];
  for (const { blob, index } of plan.blocks) {
    const last = orders.at(-1);
    if (last?.digest === blob.digest) last.indices.push(index);
    else orders.push({ digest: blob.digest, indices: [index] });
  }
  return orders;
}

/**
 * Adds the blocks that the trace names to the plan; false when it names none, or there is no trace.
 */
async function planTrace(
  { open, codec, plan }: { open: (blob: BlobRef) => ByteSource; codec: Codec; plan: Plan },
  manifest: Manifest,
  accessesMax: number,
): Promise<boolean> {
  const shipped = traceLayer(manifest);
  if (shipped === undefined) return false;
  const holder = open(shipped);
  const { offset, sizeBytes } = await findTarPayload(holder);
  checkTraceSize(sizeBytes, accessesMax);
  const accesses = parseTrace(await holder.read(offset, sizeBytes), codec);
  const reads = accesses.filter(({ op, length }) => op === 'read' && length > 0);
  if (reads.length === 0) return false;
  const budget = imageBudget();
  const layers = await Promise.all(
    blockLayers(manifest).map(async (blob) => {
      return { blob, ...(await openLayer(open(blob), codec, budget)) };
    }),
  );
  for (const read of reads) {
    // A trace of another version of the image may name what this one has not got.
    const layer = layers[read.layer];
    if (layer === undefined) continue;
    const { blob, body } = layer;
    const end = Math.min(read.offset + read.length, body.sizeBytes);
    if (read.offset >= end) continue;
    body.visitRanges(read.offset, end - read.offset, (at, length) => plan.add(blob, at, length));
  }
  return true;
}

function sourceOf(reader: BlobReader, blob: BlobRef, options: ReadOptions): ByteSource {
  return {
    sizeBytes: blob.sizeBytes,
    read: (offset, length) => reader.read(blob, offset, length, options),
  };
}

/** Blocks in the order in which they were first named, at most `blocksMax`. */
class Plan {
  readonly blocks: PlannedBlock[] = [];
  readonly #blocksMax: number;
  readonly #named = new Map<Digest, Set<BlockIndex>>();

  constructor(blocksMax = Number.POSITIVE_INFINITY) {
    this.#blocksMax = blocksMax;
  }

  add(blob: BlobRef, offset: number, length: number): void {
    if (length === 0) return;
    const named = this.#named.get(blob.digest) ?? new Set();
    this.#named.set(blob.digest, named);
    const end = Math.min(blockCount(offset + length), blockCount(blob.sizeBytes));
    for (let i = Math.floor(offset / BLOCK_SIZE_BYTES); i < end; i++) {
      if (this.blocks.length >= this.#blocksMax) return;
      const index = blockIndex(i);
      if (named.has(index)) continue;
      named.add(index);
      this.blocks.push({ blob, index });
    }
  }
}
