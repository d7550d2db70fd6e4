import { assert } from '../util/assert.ts';

/**
 * In place of a layer's number: the range reads as zeros. overlaybd stacks at most 255 layers, 0 to
 * 254.
 */
export const ZERO_LAYER = 255;

/** Rows that a new builder has room for; the room doubles when it is full. */
const ROWS_FIRST = 64;

/** The rows of a segment map, by column. */
export interface SegmentColumns {
  readonly count: number;
  readonly offsets: Uint32Array;
  readonly lengths: Uint32Array;
  /** Sector of the range in the uncompressed bytes of its layer; unused for zeros. */
  readonly moffsets: Uint32Array;
  readonly layers: Uint8Array;
}

/**
 * Which layer holds which range of a block device: rows sorted by offset, without overlaps, stored
 * in columns. Units are sectors of 512 bytes, which 32 bits count up to 2 TiB. Ranges that no row
 * covers read as zeros.
 */
export class SegmentMap implements SegmentColumns {
  readonly count: number;
  readonly offsets: Uint32Array;
  readonly lengths: Uint32Array;
  readonly moffsets: Uint32Array;
  readonly layers: Uint8Array;

  constructor(rows: SegmentColumns) {
    this.count = rows.count;
    this.offsets = rows.offsets;
    this.lengths = rows.lengths;
    this.moffsets = rows.moffsets;
    this.layers = rows.layers;
  }

  /** First sector after a row. */
  endOf(row: number): number {
    return (this.offsets[row] ?? 0) + (this.lengths[row] ?? 0);
  }

  /** First row that ends after `sector`; `count` when there is none. */
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

  /** The same rows with `layer` as their number; zeros stay zeros. */
  numbered(layer: number): SegmentMap {
    assert(
      layer < ZERO_LAYER,
      `a layer's number must be below ${ZERO_LAYER}, and this is ${layer}`,
    );
    const layers = this.layers.map((old) => (old === ZERO_LAYER ? ZERO_LAYER : layer));
    const { count, offsets, lengths, moffsets } = this;
    return new SegmentMap({ count, offsets, lengths, moffsets, layers });
  }

  /** The same rows in memory that threads share. */
  shared(): SegmentMap {
    const words = (column: Uint32Array): Uint32Array => {
      const copy = new Uint32Array(new SharedArrayBuffer(column.byteLength));
      copy.set(column);
      return copy;
    };
    const layers = new Uint8Array(new SharedArrayBuffer(this.count));
    layers.set(this.layers);
    return new SegmentMap({
      count: this.count,
      offsets: words(this.offsets),
      lengths: words(this.lengths),
      moffsets: words(this.moffsets),
      layers,
    });
  }
}

/**
 * Builds a map from rows in ascending order. A row that continues the row before is merged into it.
 */
export class SegmentMapBuilder {
  #count = 0;
  #offsets = new Uint32Array(ROWS_FIRST);
  #lengths = new Uint32Array(ROWS_FIRST);
  #moffsets = new Uint32Array(ROWS_FIRST);
  #layers = new Uint8Array(ROWS_FIRST);

  /** First sector after the last row; 0 when there is none. */
  get end(): number {
    const last = this.#count - 1;
    return last < 0 ? 0 : (this.#offsets[last] ?? 0) + (this.#lengths[last] ?? 0);
  }

  get count(): number {
    return this.#count;
  }

  /** Adds `length` sectors at `offset`, not before the end of the last row. */
  push(offset: number, length: number, place: { moffset: number; layer: number }): void {
    assert(length > 0 && offset >= this.end, 'rows of a segment map must be added in order');
    const { moffset, layer } = place;
    if (this.#continues(offset, moffset, layer)) {
      this.#lengths[this.#count - 1] = (this.#lengths[this.#count - 1] ?? 0) + length;
      return;
    }
    if (this.#count === this.#offsets.length) this.#grow();
    const row = this.#count++;
    this.#offsets[row] = offset;
    this.#lengths[row] = length;
    this.#moffsets[row] = moffset;
    this.#layers[row] = layer;
  }

  build(): SegmentMap {
    const count = this.#count;
    return new SegmentMap({
      count,
      offsets: this.#offsets.slice(0, count),
      lengths: this.#lengths.slice(0, count),
      moffsets: this.#moffsets.slice(0, count),
      layers: this.#layers.slice(0, count),
    });
  }

  #continues(offset: number, moffset: number, layer: number): boolean {
    const last = this.#count - 1;
    if (last < 0 || this.#layers[last] !== layer || this.end !== offset) return false;
    return (
      layer === ZERO_LAYER || (this.#moffsets[last] ?? 0) + (this.#lengths[last] ?? 0) === moffset
    );
  }

  #grow(): void {
    const wider = (old: Uint32Array): Uint32Array<ArrayBuffer> => {
      const column = new Uint32Array(old.length * 2);
      column.set(old);
      return column;
    };
    this.#offsets = wider(this.#offsets);
    this.#lengths = wider(this.#lengths);
    this.#moffsets = wider(this.#moffsets);
    const layers = new Uint8Array(this.#layers.length * 2);
    layers.set(this.#layers);
    this.#layers = layers;
  }
}

/**
 * Puts one map over another: where both cover a sector, `top` wins. Takes time linear in the rows
 * of both.
 */
function overlay(bottom: SegmentMap, top: SegmentMap): SegmentMap {
  const out = new SegmentMapBuilder();
  let row = 0;
  let from = bottom.offsets[0] ?? 0;
  const emitUpTo = (limit: number): void => {
    const to = Math.min(bottom.endOf(row), limit);
    if (from >= to) return;
    const layer = bottom.layers[row] ?? ZERO_LAYER;
    const moffset = (bottom.moffsets[row] ?? 0) + from - (bottom.offsets[row] ?? 0);
    out.push(from, to - from, { moffset: layer === ZERO_LAYER ? 0 : moffset, layer });
  };
  const next = (): void => {
    row++;
    from = bottom.offsets[row] ?? 0;
  };
  for (let t = 0; t < top.count; t++) {
    const start = top.offsets[t] ?? 0;
    const end = top.endOf(t);
    for (; row < bottom.count && bottom.endOf(row) <= start; next()) emitUpTo(start);
    if (row < bottom.count) emitUpTo(start);
    const layer = top.layers[t] ?? ZERO_LAYER;
    out.push(start, end - start, { moffset: top.moffsets[t] ?? 0, layer });
    while (row < bottom.count && bottom.endOf(row) <= end) next();
    from = Math.max(from, end);
  }
  for (; row < bottom.count; next()) emitUpTo(Number.POSITIVE_INFINITY);
  return out.build();
}

/** Stacks maps, bottom first, in n log k time for n rows in k maps. */
export function overlayAll(maps: readonly SegmentMap[]): SegmentMap {
  const [only] = maps;
  if (only === undefined) return new SegmentMapBuilder().build();
  if (maps.length === 1) return only;
  const half = maps.length >>> 1;
  return overlay(overlayAll(maps.slice(0, half)), overlayAll(maps.slice(half)));
}
