import { paxNumber, type PaxRecords } from './pax.ts';
import type { ByteString, DataRun } from './tar-entry.ts';
import { BLOCK_BYTES, parseNumber } from './tar-header.ts';
import type { TarPlace } from './tar-place.ts';

/** Reads more bytes of an entry's headers. */
export type HeaderReads = (length: number) => Promise<Uint8Array>;

/** A sparse file: its size, and where its data belongs. */
export interface SparseMap {
  readonly sizeBytes: number;
  readonly dataRuns: readonly DataRun[];
  /** Bytes of the entry's data that were the map itself. */
  readonly mapBytes: number;
}

/**
 * The map of a file of GNU tar's `S` type: four ranges in the header, then blocks of 21 ranges as
 * long as the one before says so. Throws ConvertError.
 */
export async function oldGnuSparse(
  block: Uint8Array,
  read: HeaderReads,
  place: TarPlace,
): Promise<SparseMap> {
  const real = { name: 'size', at: 483, length: 12 };
  const sizeBytes = parseNumber(block, real, place);
  const runs = rangesOf(block, { at: 386, count: 4 }, place);
  let hasMore = block[482] !== 0;
  while (hasMore) {
    const more = await read(BLOCK_BYTES);
    runs.push(...rangesOf(more, { at: 0, count: 21 }, place));
    hasMore = more[504] !== 0;
  }
  return { sizeBytes, dataRuns: checkedRuns(runs, sizeBytes, place), mapBytes: 0 };
}

function rangesOf(
  block: Uint8Array,
  table: { readonly at: number; readonly count: number },
  place: TarPlace,
): DataRun[] {
  const runs: DataRun[] = [];
  for (let i = 0; i < table.count; i++) {
    const at = table.at + 24 * i;
    // GNU tar, bsdtar and Go end the table here too.
    if (block[at] === 0) break;
    runs.push({
      offset: parseNumber(block, { name: 'sparse map', at, length: 12 }, place),
      length: parseNumber(block, { name: 'sparse map', at: at + 12, length: 12 }, place),
    });
  }
  return runs;
}

/**
 * The map that PAX records describe: of version 0.0 and 0.1 in the records, of 1.0 at the head of
 * the data. Undefined for a file that is not sparse. Throws ConvertError.
 */
export async function paxSparse(
  records: PaxRecords,
  read: HeaderReads,
  place: TarPlace,
): Promise<SparseMap | undefined> {
  const major = records.get('GNU.sparse.major');
  const minor = records.get('GNU.sparse.minor');
  const size = records.get('GNU.sparse.realsize') ?? records.get('GNU.sparse.size');
  if (records.get('SUN.holesdata') !== undefined) {
    throw place.error('it is a sparse file of Solaris, whose maps are not supported');
  }
  const map = records.get('GNU.sparse.map');
  const hasMap = map !== undefined || records.sparsePairs.length > 0;
  if (major === undefined && minor === undefined && !hasMap && size === undefined) return undefined;
  const sizeBytes = paxNumber(size ?? '', 'size', place);
  const version = `${major ?? '0'}.${minor ?? '0'}`;
  if (version === '1.0') {
    const { numbers, mapBytes } = await numbersInData(read, place);
    return { sizeBytes, dataRuns: runsOf(numbers, sizeBytes, place), mapBytes };
  }
  if (version !== '0.0' && version !== '0.1') {
    throw place.error(`it is a sparse file of the unknown version ${JSON.stringify(version)}`);
  }
  const texts = map === undefined ? records.sparsePairs : map.split(',');
  const numbers = texts.map((text) => paxNumber(text, 'sparse map', place));
  const count = records.get('GNU.sparse.numblocks');
  if (count !== undefined && 2 * paxNumber(count, 'sparse map', place) !== numbers.length) {
    throw place.error(`its sparse map has ${numbers.length} numbers for ${count} ranges`);
  }
  return { sizeBytes, dataRuns: runsOf(numbers, sizeBytes, place), mapBytes: 0 };
}

/** Decimal numbers on lines of their own: a count of ranges, then the ranges; padded to blocks. */
async function numbersInData(
  read: HeaderReads,
  place: TarPlace,
): Promise<{ readonly numbers: readonly number[]; readonly mapBytes: number }> {
  const numbers: number[] = [];
  let line = '';
  let left = 1;
  let mapBytes = 0;
  while (left > 0) {
    const block = await read(BLOCK_BYTES);
    mapBytes += BLOCK_BYTES;
    for (let i = 0; i < BLOCK_BYTES && left > 0; i++) {
      const byte = block[i] ?? 0;
      if (byte !== 0x0a) {
        line += String.fromCharCode(byte);
        continue;
      }
      const number = paxNumber(line, 'sparse map', place);
      line = '';
      left--;
      if (numbers.length === 0) left = 2 * number;
      numbers.push(number);
    }
  }
  return { numbers: numbers.slice(1), mapBytes };
}

function runsOf(
  numbers: readonly number[],
  sizeBytes: number,
  place: TarPlace,
): readonly DataRun[] {
  if (numbers.length % 2 !== 0) throw place.error('its sparse map has a range without a length');
  const runs: DataRun[] = [];
  for (let i = 0; i < numbers.length; i += 2) {
    runs.push({ offset: numbers[i] ?? 0, length: numbers[i + 1] ?? 0 });
  }
  return checkedRuns(runs, sizeBytes, place);
}

/** The ranges that are not empty: writers end a map with an empty one at the end of the file. */
function checkedRuns(
  runs: readonly DataRun[],
  sizeBytes: number,
  place: TarPlace,
): readonly DataRun[] {
  let end = 0;
  for (const { offset, length } of runs) {
    if (offset < end) throw place.error('the ranges of its sparse map overlap, or run backwards');
    if (length > sizeBytes - offset) {
      throw place.error(`its sparse map goes beyond its size of ${sizeBytes} bytes`);
    }
    end = offset + length;
  }
  return runs.filter(({ length }) => length > 0);
}

/** The bytes of all ranges together. */
export function dataBytesOf(runs: readonly DataRun[]): number {
  return runs.reduce((sum, { length }) => sum + length, 0);
}

/** The name of a sparse file: PAX headers of such files have another in the place of the path. */
export function sparseName(records: PaxRecords): ByteString | undefined {
  return records.get('GNU.sparse.name');
}
