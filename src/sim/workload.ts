import { ceilTo } from '../image/binary.ts';
import {
  BLOCK_SIZE_BYTES,
  blockCount,
  BLOCKS_MAX,
  blockIndex,
  blockLength,
  stripeCount,
  type BlobRef,
  type BlockIndex,
} from '../image/block.ts';
import { parseDigest } from '../image/digest.ts';
import type { TraceAccess } from '../image/trace.ts';
import { assert, defined } from '../util/assert.ts';
import { CONTAINER_CPU_MS, CONTAINER_SETUP_CPU_MS } from './costs.ts';
import { SeededRandom } from './seeded-random.ts';

/** A blob of the simulated registry. `number` is its index in `Image.blobs`. */
export interface SimBlob extends BlobRef {
  readonly number: number;
  readonly stripes: number;
}

/** One block of one blob. */
export interface BlockName {
  readonly blob: SimBlob;
  readonly index: BlockIndex;
}

/**
 * One read of the recorded container: its blocks, the cost to decode them, and the CPU time before
 * it.
 */
interface TraceRead {
  readonly blocks: readonly BlockName[];
  readonly lengthBytes: number;
  readonly cpuBeforeMs: number;
}

/** The work of a container: reads with CPU bursts between them. */
export interface Trace {
  readonly reads: readonly TraceRead[];
  readonly cpuAfterMs: number;
  /** Every block that the reads touch, in the order of first touch. */
  readonly touched: readonly BlockName[];
  /** The reads as overlaybd records them. */
  readonly accesses: readonly TraceAccess[];
  /** The blob that carries the trace when the image ships it. */
  readonly shipped: SimBlob;
}

/** An image, bottom layer first. */
export interface Image {
  readonly blobs: readonly SimBlob[];
  readonly sizeBytes: number;
}

/**
 * Layers of the default image, in units of 10^6 bytes, bottom first: 894 MB, shaped like an
 * application on a distribution.
 */
const LAYER_MB = [238, 312, 164, 96, 47, 24, 11, 2] as const;

/**
 * Bytes that the default container reads, in `READ_COUNT` reads: the published shape of a start (15
 * MB of an image of 894 MB).
 */
const READ_BYTES = 15_000_000;
const READ_COUNT = 300;

/**
 * Places where the sequential runs begin: about eight reads each, as in loading one file after the
 * other.
 */
const RUN_COUNT = 36;

/**
 * Bytes of a trace without accesses in a tar (the trace's header, the file's tar header, two zero
 * records), and of each access.
 */
const TRACE_TAR_BYTES = 24 + 512 + 1024;
const ACCESS_BYTES = 24;

/** tar writes whole records of 20 blocks. */
const TAR_RECORD_BYTES = 20 * 512;

/** A blob whose digest spells its number. */
export function makeBlob(number: number, sizeBytes: number): SimBlob {
  const hex = number.toString(16).padStart(4, '0').repeat(16);
  const digest = defined(parseDigest(`sha256:${hex}`), 'hex digits');
  return { number, digest, sizeBytes, stripes: stripeCount(sizeBytes) };
}

/** The default image; `layersMb` are the sizes of its layers in units of 10^6 bytes. */
export function makeImage(layersMb: readonly number[] = LAYER_MB): Image {
  const blobs = layersMb.map((mb, number) => makeBlob(number, mb * 1e6));
  return { blobs, sizeBytes: blobs.reduce((sum, blob) => sum + blob.sizeBytes, 0) };
}

/**
 * All blocks of the image, all layers at the same pace, so that all their trees carry at the same
 * time.
 */
export function blocksOf(image: Image): readonly BlockName[] {
  const all = image.blobs.flatMap((blob) => {
    const count = blockCount(blob.sizeBytes);
    return Array.from({ length: count }, (_, i) => ({ blob, index: blockIndex(i), at: i / count }));
  });
  return all.sort((a, b) => a.at - b.at).map(({ blob, index }) => ({ blob, index }));
}

/** Bytes of the named blocks, each counted once. */
export function bytesOf(blocks: Iterable<BlockName>): number {
  let sum = 0;
  for (const { blob, index } of blocks) sum += blockLength(blob.sizeBytes, index);
  return sum;
}

/**
 * The default trace: the same for every seed, so that runs with different seeds differ in the world
 * and not in the work. Other variants read other parts of the image; `share` makes the trace
 * shorter, with the same CPU.
 */
export function makeTrace(image: Image, { variant = 0, share = 1 } = {}): Trace {
  const random = new SeededRandom(`container ${variant}`);
  const readCount = Math.ceil(READ_COUNT * share);
  const lengths = shares(random, readCount).map((part) => Math.ceil(part * share * READ_BYTES));
  const cpuMs = shares(random, readCount).map(
    (part) => part * (CONTAINER_CPU_MS - CONTAINER_SETUP_CPU_MS),
  );
  const runStarts = new Set<number>([0]);
  const runCount = Math.ceil(RUN_COUNT * share);
  while (runStarts.size < runCount) runStarts.add(random.below(readCount));
  let at = { blob: defined(image.blobs[0], 'an image has a layer'), offset: 0 };
  const reads = lengths.map((lengthBytes, i) => {
    if (runStarts.has(i) || at.offset + lengthBytes > at.blob.sizeBytes) {
      at = somewhere(random, image, lengthBytes);
    }
    const read = { blob: at.blob, offset: at.offset, lengthBytes, cpuBeforeMs: cpuMs[i] ?? 0 };
    at = { blob: at.blob, offset: at.offset + lengthBytes };
    return read;
  });
  return makeRecordedTrace(image, reads, variant);
}

/**
 * A trace as overlaybd records it. Its offsets count uncompressed bytes of the layers of another
 * image. This function scales them into the layers of `image`, by the largest offset in each layer,
 * and spreads the CPU of a container evenly.
 */
export function traceOf(image: Image, accesses: readonly TraceAccess[], variant = 0): Trace {
  const reads = accesses.filter(({ op, length }) => op === 'read' && length > 0);
  assert(reads.length > 0, 'the trace has no reads');
  const ends = new Map<number, number>();
  for (const { layer, offset, length } of reads) {
    ends.set(layer, Math.max(ends.get(layer) ?? 0, offset + length));
  }
  const cpuBeforeMs = (CONTAINER_CPU_MS - CONTAINER_SETUP_CPU_MS) / reads.length;
  const scaled = reads.map(({ layer, offset, length }) => {
    const blob = defined(image.blobs[layer % image.blobs.length], 'an image has a layer');
    const scale = Math.min(1, blob.sizeBytes / (ends.get(layer) ?? 1));
    const lengthBytes = Math.max(1, Math.floor(length * scale));
    return { blob, offset: Math.floor(offset * scale), lengthBytes, cpuBeforeMs };
  });
  return makeRecordedTrace(image, scaled, variant);
}

/**
 * A trace from a list of reads, in order; `offset` and `lengthBytes` refer to the blob as the
 * registry has it.
 */
function makeRecordedTrace(
  image: Image,
  reads: readonly { blob: SimBlob; offset: number; lengthBytes: number; cpuBeforeMs: number }[],
  variant = 0,
): Trace {
  const touched = new Map<number, BlockName>();
  const named = reads.map(({ blob, offset, lengthBytes, cpuBeforeMs }, i) => {
    assert(offset + lengthBytes <= blob.sizeBytes, 'a read of the trace lies outside its blob');
    const blocks: BlockName[] = [];
    const last = Math.floor((offset + lengthBytes - 1) / BLOCK_SIZE_BYTES);
    for (let index = Math.floor(offset / BLOCK_SIZE_BYTES); index <= last; index++) {
      const key = blob.number * BLOCKS_MAX + index;
      const name = touched.get(key) ?? { blob, index: blockIndex(index) };
      touched.set(key, name);
      blocks.push(name);
    }
    const setupMs = i === 0 ? CONTAINER_SETUP_CPU_MS : 0;
    return { blocks, lengthBytes, cpuBeforeMs: cpuBeforeMs + setupMs };
  });
  const tarBytes = TRACE_TAR_BYTES + ACCESS_BYTES * reads.length;
  return {
    reads: named,
    cpuAfterMs: 0,
    touched: [...touched.values()],
    accesses: reads.map(({ blob, offset, lengthBytes: length }) => ({
      op: 'read',
      layer: blob.number,
      offset,
      length,
    })),
    shipped: makeBlob(image.blobs.length + variant, ceilTo(tarBytes, TAR_RECORD_BYTES)),
  };
}

/** Positive numbers that sum to 1, exponentially spread: a few large, many small. */
function shares(random: SeededRandom, count: number): number[] {
  const weights = Array.from({ length: count }, () => 0.1 - Math.log(1 - random.float()));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}

/**
 * A place in the image; half of the draws are weighted by the sizes of the layers, since upper
 * layers are small but hot.
 */
function somewhere(
  random: SeededRandom,
  image: Image,
  lengthBytes: number,
): { blob: SimBlob; offset: number } {
  const fitting = image.blobs.filter((blob) => blob.sizeBytes > 2 * lengthBytes);
  let left = random.float() * image.sizeBytes;
  const bySize = fitting.find((blob) => (left -= blob.sizeBytes) < 0);
  const even = fitting[random.below(fitting.length)];
  const blob = defined((random.float() < 0.5 ? bySize : undefined) ?? even, 'a layer fits a read');
  return { blob, offset: random.below(blob.sizeBytes - 2 * lengthBytes) };
}
