import { ceilTo, viewOf, writeU64 } from './binary.ts';
import { damaged, outOfRange } from './errors.ts';
import {
  IMAGE_SIZE_BYTES_MAX,
  LSMT_HEADER_BYTES,
  SECTOR_BYTES,
  SEGMENT_BYTES,
} from './lsmt-header.ts';
import { SegmentMapBuilder, ZERO_LAYER, type SegmentMap } from './segment-map.ts';
import { WriteMap, ZERO_MOFFSET, type WriteRow } from './write-map.ts';

/**
 * Most index entries of one layer: limits its index to 64 MiB. ext4 images have a few hundred per
 * GiB.
 */
export const SEGMENT_COUNT_MAX = 2 ** 22;

/** Longest range of one stored entry, in sectors: 14 bits. */
const SEGMENT_SECTORS_MAX = 2 ** 14 - 1;

/** Offset of the entries that pad an index: all 50 bits. */
const PADDING_OFFSET = 2 ** 50 - 1;

/** Bit 55 of an entry's second word, in its upper half. */
const ZEROED = 2 ** 23;

/** Limits of the entries of an index, in sectors. */
export interface IndexLimits {
  /** End of the block device; 0 when the layer does not say. */
  readonly virtualSectors: number;
  /** End of the data in the layer's uncompressed bytes. */
  readonly dataEndSectors: number;
}

/** One stored entry, in sectors, and its place in the index. */
interface Entry {
  readonly number: number;
  readonly offset: number;
  readonly length: number;
  readonly moffset: number;
  readonly zeroed: boolean;
}

/** Reads the index of a committed layer: sorted entries without overlaps. Throws ImageError. */
export function parseIndex(bytes: Uint8Array, limits: IndexLimits): SegmentMap {
  const out = new SegmentMapBuilder();
  for (const entry of entriesOf(bytes, limits)) {
    if (entry.offset < out.end) {
      throw damaged(
        `LSMT index entry ${entry.number}`,
        `it begins at sector ${entry.offset}, but the entry before ends at ${out.end}`,
      );
    }
    out.push(entry.offset, entry.length, placeOf(entry));
  }
  return out.build();
}

/**
 * Reads the index of a writable layer: entries in order of the writes; later ones win. Throws
 * ImageError.
 */
export function parseIndexLog(bytes: Uint8Array, limits: IndexLimits): SegmentMap {
  const map = new WriteMap();
  for (const row of indexLog(bytes, limits)) map.put(row);
  return map.build();
}

/** The entries of a writable layer's index in their order. Throws ImageError. */
export function* indexLog(bytes: Uint8Array, limits: IndexLimits): Generator<WriteRow> {
  for (const { offset, length, moffset, zeroed } of entriesOf(bytes, limits)) {
    yield { offset, length, moffset: zeroed ? ZERO_MOFFSET : moffset };
  }
}

/** Bytes of the entries before the first that is missing: all zeros. */
export function soundBytes(bytes: Uint8Array): number {
  let at = 0;
  while (at + SEGMENT_BYTES <= bytes.length) {
    if (bytes.subarray(at, at + SEGMENT_BYTES).every((byte) => byte === 0)) break;
    at += SEGMENT_BYTES;
  }
  return at;
}

/** Entries of a writable layer's index; a row that is longer than one becomes several. */
export function encodeIndexLog(rows: readonly WriteRow[]): Uint8Array {
  let count = 0;
  for (const { length } of rows) count += Math.ceil(length / SEGMENT_SECTORS_MAX);
  const bytes = new Uint8Array(count * SEGMENT_BYTES);
  let at = 0;
  for (const row of rows) at = putEntries(viewOf(bytes), at, row);
  return bytes;
}

/** The index in its stored form: rows split at the longest length, padded to 4096 bytes. */
export function encodeIndex(map: SegmentMap): Uint8Array {
  let count = 0;
  for (const length of map.lengths) count += Math.ceil(length / SEGMENT_SECTORS_MAX);
  const bytes = new Uint8Array(ceilTo(count * SEGMENT_BYTES, LSMT_HEADER_BYTES));
  const view = viewOf(bytes);
  let at = 0;
  for (let row = 0; row < map.count; row++) {
    const isZero = map.layers[row] === ZERO_LAYER;
    at = putEntries(view, at, {
      offset: map.offsets[row] ?? 0,
      length: map.lengths[row] ?? 0,
      moffset: isZero ? ZERO_MOFFSET : (map.moffsets[row] ?? 0),
    });
  }
  for (; at < bytes.length; at += SEGMENT_BYTES) {
    writeU64(view, at, PADDING_OFFSET % 2 ** 32);
    view.setUint32(at + 4, Math.floor(PADDING_OFFSET / 2 ** 32), true);
  }
  return bytes;
}

/** Writes a row as one entry or more at `at`; gives the end of the last. */
function putEntries(view: DataView, at: number, row: WriteRow): number {
  let end = at;
  for (let done = 0; done < row.length; done += SEGMENT_SECTORS_MAX) {
    const length = Math.min(SEGMENT_SECTORS_MAX, row.length - done);
    writeU64(view, end, row.offset + done);
    view.setUint32(end + 4, view.getUint32(end + 4, true) + length * 2 ** 18, true);
    if (row.moffset === ZERO_MOFFSET) view.setUint32(end + 12, ZEROED, true);
    else writeU64(view, end + 8, row.moffset + done);
    end += SEGMENT_BYTES;
  }
  return end;
}

function placeOf(entry: Entry): { moffset: number; layer: number } {
  return entry.zeroed ? { moffset: 0, layer: ZERO_LAYER } : { moffset: entry.moffset, layer: 0 };
}

function* entriesOf(bytes: Uint8Array, limits: IndexLimits): Generator<Entry> {
  const view = viewOf(bytes);
  for (let at = 0; at + SEGMENT_BYTES <= bytes.length; at += SEGMENT_BYTES) {
    const [low, high] = [view.getUint32(at, true), view.getUint32(at + 4, true)];
    const offset = (high % 2 ** 18) * 2 ** 32 + low;
    if (offset === PADDING_OFFSET) continue;
    const high1 = view.getUint32(at + 12, true);
    const entry: Entry = {
      number: at / SEGMENT_BYTES,
      offset,
      length: high >>> 18,
      moffset: (high1 % 2 ** 23) * 2 ** 32 + view.getUint32(at + 8, true),
      zeroed: (high1 & ZEROED) !== 0,
    };
    checkEntry(entry, limits);
    yield entry;
  }
}

function checkEntry(entry: Entry, limits: IndexLimits): void {
  const name = `LSMT index entry ${entry.number}`;
  if (entry.length === 0)
    throw outOfRange(`${name} length`, 0, 'an entry must cover at least a sector');
  const end = entry.offset + entry.length;
  const device = limits.virtualSectors || IMAGE_SIZE_BYTES_MAX / SECTOR_BYTES;
  if (end > device) {
    throw outOfRange(`${name} end`, end, `the block device ends at sector ${device}`);
  }
  if (entry.zeroed) return;
  const first = LSMT_HEADER_BYTES / SECTOR_BYTES;
  if (entry.moffset < first || entry.moffset + entry.length > limits.dataEndSectors) {
    throw outOfRange(
      `${name} moffset`,
      entry.moffset,
      `its ${entry.length} sectors must lie in the layer's data, ` +
        `sectors ${first} to ${limits.dataEndSectors}`,
    );
  }
}
