import { assert, defined } from '../util/assert.ts';
import { SegmentMapBuilder, ZERO_LAYER, type SegmentMap } from './segment-map.ts';

/** Rows of a full chunk. A write moves at most this many; the chunks of a million rows are few. */
const CHUNK_ROWS = 512;

/** In place of the data's sector: the range reads as zeros. No data lies there: the header does. */
export const ZERO_MOFFSET = 0;

/** A range of a device, in sectors, and the sector of its data; `ZERO_MOFFSET` for zeros. */
export interface WriteRow {
  readonly offset: number;
  readonly length: number;
  readonly moffset: number;
}

/** Some rows in order, in columns. */
class Chunk {
  count = 0;
  readonly #offsets = new Uint32Array(CHUNK_ROWS);
  readonly #lengths = new Uint32Array(CHUNK_ROWS);
  readonly #moffsets = new Uint32Array(CHUNK_ROWS);

  at(row: number): WriteRow {
    return {
      offset: this.#offsets[row] ?? 0,
      length: this.#lengths[row] ?? 0,
      moffset: this.#moffsets[row] ?? 0,
    };
  }

  offsetOf(row: number): number {
    return this.#offsets[row] ?? 0;
  }

  endOf(row: number): number {
    return (this.#offsets[row] ?? 0) + (this.#lengths[row] ?? 0);
  }

  /** End of the last row. */
  get end(): number {
    return this.endOf(this.count - 1);
  }

  /** First row that ends after `sector`. */
  rowAfter(sector: number): number {
    let low = 0;
    let high = this.count;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.endOf(middle) > sector) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Puts `rows` in the place of `removed` rows at `from`. */
  replace(from: number, removed: number, rows: readonly WriteRow[]): void {
    const moved = from + rows.length;
    for (const column of [this.#offsets, this.#lengths, this.#moffsets]) {
      column.copyWithin(moved, from + removed, this.count);
    }
    this.count += rows.length - removed;
    for (const [i, { offset, length, moffset }] of rows.entries()) {
      this.#offsets[from + i] = offset;
      this.#lengths[from + i] = length;
      this.#moffsets[from + i] = moffset;
    }
  }

  /** Keeps the first half; gives the other. */
  split(): Chunk {
    const half = this.count >>> 1;
    const other = new Chunk();
    other.count = this.count - half;
    other.#offsets.set(this.#offsets.subarray(half, this.count));
    other.#lengths.set(this.#lengths.subarray(half, this.count));
    other.#moffsets.set(this.#moffsets.subarray(half, this.count));
    this.count = half;
    return other;
  }
}

/**
 * Where the live data of a writable layer lies: rows in order, without overlaps, that each write
 * changes in place. A row takes 12 bytes, and at most twice that with the room for more. Units are
 * sectors of 512 bytes, which 32 bits count up to 2 TiB.
 */
export class WriteMap {
  /** None is empty. */
  readonly #chunks: Chunk[] = [];
  #count = 0;

  get count(): number {
    return this.#count;
  }

  /** The row covers its range from now on; it continues the row before where it can. */
  put(row: WriteRow): void {
    assert(row.length > 0, 'a row covers at least a sector');
    const end = row.offset + row.length;
    const chunkIndex = this.#chunkAfter(row.offset);
    const chunk = this.#chunks[chunkIndex];
    if (chunk === undefined) return this.#append(row);
    const from = chunk.rowAfter(row.offset);
    const rows: WriteRow[] = [];
    const first = chunk.at(from);
    if (first.offset < row.offset) rows.push({ ...first, length: row.offset - first.offset });
    rows.push(row);
    let to = from;
    while (to < chunk.count && chunk.endOf(to) <= end) to++;
    if (to === chunk.count) this.#cutAfter(chunkIndex, end);
    else if (chunk.offsetOf(to) < end) rows.push(restOf(chunk.at(to++), end));
    let start = from;
    if (from > 0) {
      start--;
      rows.unshift(chunk.at(start));
    }
    this.#replace(chunkIndex, { from: start, to, rows: joined(rows) });
  }

  /** Visits the rows in [offset, end), cut to it, in order. */
  visit(offset: number, end: number, visit: (row: WriteRow) => void): void {
    for (let i = this.#chunkAfter(offset); i < this.#chunks.length; i++) {
      const chunk = defined(this.#chunks[i], 'the chunk is there');
      for (let at = chunk.rowAfter(offset); at < chunk.count; at++) {
        if (chunk.offsetOf(at) >= end) return;
        const row = chunk.at(at);
        const rest = row.offset < offset ? restOf(row, offset) : row;
        visit({ ...rest, length: Math.min(rest.length, end - rest.offset) });
      }
    }
  }

  /** The rows of this moment, with data in layer 0. */
  build(): SegmentMap {
    const out = new SegmentMapBuilder();
    this.visit(0, Number.POSITIVE_INFINITY, ({ offset, length, moffset }) =>
      out.push(offset, length, { moffset, layer: moffset === ZERO_MOFFSET ? ZERO_LAYER : 0 }),
    );
    return out.build();
  }

  /** First chunk that ends after `sector`; the count of chunks when there is none. */
  #chunkAfter(sector: number): number {
    let low = 0;
    let high = this.#chunks.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (defined(this.#chunks[middle], 'the chunk is there').end > sector) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Adds a row after all others. */
  #append(row: WriteRow): void {
    const last = this.#chunks.length - 1;
    const chunk = this.#chunks[last];
    if (chunk === undefined) {
      this.#chunks.push(new Chunk());
      return this.#replace(0, { from: 0, to: 0, rows: [row] });
    }
    const from = chunk.count - 1;
    this.#replace(last, { from, to: chunk.count, rows: joined([chunk.at(from), row]) });
  }

  /** Takes all that lies before `end` out of the chunks after `chunkIndex`. */
  #cutAfter(chunkIndex: number, end: number): void {
    const next = chunkIndex + 1;
    let whole = 0;
    for (; ; whole++) {
      const chunk = this.#chunks[next + whole];
      if (chunk === undefined || chunk.end > end) break;
      this.#count -= chunk.count;
    }
    this.#chunks.splice(next, whole);
    const chunk = this.#chunks[next];
    if (chunk === undefined) return;
    const row = chunk.rowAfter(end);
    const first = chunk.at(row);
    const rows = first.offset < end ? [restOf(first, end)] : [];
    chunk.replace(0, row + rows.length, rows);
    this.#count -= row;
  }

  #replace(
    chunkIndex: number,
    change: { readonly from: number; readonly to: number; readonly rows: readonly WriteRow[] },
  ): void {
    const { from, to, rows } = change;
    const chunk = defined(this.#chunks[chunkIndex], 'the chunk is there');
    chunk.replace(from, to - from, rows);
    this.#count += rows.length - (to - from);
    // A write adds at most two rows.
    if (chunk.count > CHUNK_ROWS - 2) this.#chunks.splice(chunkIndex + 1, 0, chunk.split());
  }
}

/** The part of a row from `offset` on, which lies in it. */
function restOf(row: WriteRow, offset: number): WriteRow {
  const gone = offset - row.offset;
  const moffset = row.moffset === ZERO_MOFFSET ? ZERO_MOFFSET : row.moffset + gone;
  return { offset, length: row.length - gone, moffset };
}

/** The rows with each one joined to the one before that it continues. */
function joined(rows: readonly WriteRow[]): WriteRow[] {
  const out: WriteRow[] = [];
  for (const row of rows) {
    const last = out.at(-1);
    if (last === undefined || !continues(last, row)) out.push(row);
    else out[out.length - 1] = { ...last, length: last.length + row.length };
  }
  return out;
}

/** Whether `next` follows `row` on the device, and its data the data of `row`. */
export function continues(row: WriteRow, next: WriteRow): boolean {
  if (row.offset + row.length !== next.offset) return false;
  if (row.moffset === ZERO_MOFFSET || next.moffset === ZERO_MOFFSET)
    return row.moffset === next.moffset;
  return row.moffset + row.length === next.moffset;
}
