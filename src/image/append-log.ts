import type { DiskFile } from '../runtime/disk.ts';
import { readFully } from '../runtime/whole-file.ts';
import { damaged, outOfRange, truncated } from './errors.ts';
import {
  LSMT_HEADER_BYTES,
  parseLsmtHeader,
  SECTOR_BYTES,
  SEGMENT_BYTES,
  type LsmtHeader,
} from './lsmt-header.ts';
import { indexLog, SEGMENT_COUNT_MAX, soundBytes, type IndexLimits } from './lsmt-index.ts';
import { WriteMap, ZERO_MOFFSET, type WriteRow } from './write-map.ts';

/** Bytes that are read at once. */
const PIECE_BYTES = 1024 * 1024;

/** What the sound part of an index file says. */
export interface IndexLog {
  readonly map: WriteMap;
  readonly entryCount: number;
  /** First sector after all data that entries name. */
  readonly dataEnd: number;
}

/** Checks both headers; gives that of the data. */
export async function readHeaders(data: DiskFile, first: Uint8Array): Promise<LsmtHeader> {
  const bytes = new Uint8Array(LSMT_HEADER_BYTES);
  if ((await readFully(data, bytes, 0)) < bytes.length) {
    throw truncated('data file of the writable layer', 'its header is missing');
  }
  const header = parseLsmtHeader(bytes, 'LSMT header');
  const index = parseLsmtHeader(first, 'LSMT index header');
  if (!header.isHeader || !header.isData || header.isSealed || header.isSparse) {
    throw damaged('LSMT header', 'its flags are not those of a writable layer in append mode');
  }
  if (index.uuid !== header.uuid || index.isData) {
    throw damaged('LSMT index header', 'it does not belong to the data file');
  }
  if (index.indexOffset !== LSMT_HEADER_BYTES) {
    throw outOfRange('LSMT index_offset', index.indexOffset, `it must be ${LSMT_HEADER_BYTES}`);
  }
  return header;
}

/**
 * Reads entries up to the first that is missing: all zeros, where a sector did not reach the disk.
 * The entries after it are younger.
 */
export async function readLog(index: DiskFile, limits: IndexLimits): Promise<IndexLog> {
  const map = new WriteMap();
  let entryCount = 0;
  let dataEnd = LSMT_HEADER_BYTES / SECTOR_BYTES;
  for (let isWhole = true; isWhole; ) {
    const bytes = new Uint8Array(PIECE_BYTES);
    const count = await readFully(index, bytes, LSMT_HEADER_BYTES + entryCount * SEGMENT_BYTES);
    const sound = soundBytes(bytes.subarray(0, count));
    isWhole = sound === PIECE_BYTES;
    entryCount += sound / SEGMENT_BYTES;
    if (entryCount > SEGMENT_COUNT_MAX) {
      throw outOfRange('LSMT index', entryCount, `at most ${SEGMENT_COUNT_MAX} entries are read`);
    }
    const rows = [...indexLog(bytes.subarray(0, sound), limits)];
    for (const row of rows) map.put(row);
    dataEnd = endOf(rows, dataEnd);
  }
  return { map, entryCount, dataEnd };
}

/** First sector after all data that the rows name, and not before `least`. */
export function endOf(rows: readonly WriteRow[], least: number): number {
  return rows.reduce(
    (end, { moffset, length }) =>
      moffset === ZERO_MOFFSET ? end : Math.max(end, moffset + length),
    least,
  );
}
