const FRAME_MAGIC = 0xfd2fb528;
/** Of skippable frames, the last four bits apart. */
const SKIPPABLE_MAGIC = 0x184d2a50;
/** Bytes of a frame's header for its dictionary and its content's size, by their codes. */
const DICTIONARY_BYTES = [0, 1, 2, 4];
const SIZE_BYTES = [0, 2, 4, 8];

/** What the walk through a frame reads next. */
type Field = 'magic' | 'skippable-size' | 'descriptor' | 'block';

const FIELD_BYTES: Readonly<Record<Field, number>> = {
  magic: 4,
  'skippable-size': 4,
  descriptor: 1,
  block: 3,
};

/**
 * Finds where the frames of a zstd stream end (RFC 8878): zlib drops what stands behind the end of
 * a frame in the same piece, and does not tell a frame that was cut short.
 *
 *     frame:     magic 4, descriptor 1, rest of the header, blocks, checksum 0 or 4
 *     block:     header 3 (bit 0 last, bits 1-2 type, the rest size), data
 *     skippable: magic 4, size 4, data that nobody reads
 */
export class ZstdFrames {
  #field: Field = 'magic';
  /** The bytes of the field that came. */
  readonly #bytes = new Uint8Array(4);
  #have = 0;
  /** Bytes to pass before the next field. */
  #pass = 0;
  /** In a frame that zlib decodes, behind its magic. */
  #isDecoded = false;
  #hasChecksum = false;

  /** Whether all that came ends with a whole frame. */
  get isBetween(): boolean {
    return this.#field === 'magic' && this.#have === 0 && this.#pass === 0;
  }

  /**
   * The parts of the next piece that zlib decodes: none goes beyond the end of a frame, skippable
   * frames are left out. Throws RangeError when no frame begins where one must.
   */
  *split(piece: Uint8Array): Generator<Uint8Array, void> {
    let start = 0;
    let at = 0;
    while (at < piece.length) {
      const isMagic = this.#field === 'magic' && this.#pass === 0;
      at = this.#step(piece, at);
      if (isMagic && this.#isDecoded) {
        // The first bytes of the magic may have come with the piece before.
        if (at < 4) yield this.#bytes.slice();
        start = at < 4 ? at : at - 4;
      }
      if (!this.isBetween || !this.#isDecoded) continue;
      this.#isDecoded = false;
      yield piece.subarray(start, at);
    }
    if (this.#isDecoded && start < at) yield piece.subarray(start, at);
  }

  /** Passes data, or takes a byte of a field; returns where the next step begins. */
  #step(piece: Uint8Array, at: number): number {
    if (this.#pass > 0) {
      const passed = Math.min(this.#pass, piece.length - at);
      this.#pass -= passed;
      return at + passed;
    }
    this.#bytes[this.#have++] = piece[at] ?? 0;
    if (this.#have === FIELD_BYTES[this.#field]) {
      this.#have = 0;
      this.#next();
    }
    return at + 1;
  }

  #next(): void {
    const [a = 0, b = 0, c = 0, d = 0] = this.#bytes;
    switch (this.#field) {
      case 'magic': {
        const magic = (a | (b << 8) | (c << 16) | (d << 24)) >>> 0;
        const isSkippable = (magic & 0xfffffff0) >>> 0 === SKIPPABLE_MAGIC;
        if (!isSkippable && magic !== FRAME_MAGIC) {
          throw new RangeError('no zstd frame where one must begin');
        }
        this.#isDecoded = !isSkippable;
        this.#field = isSkippable ? 'skippable-size' : 'descriptor';
        return;
      }
      case 'skippable-size':
        this.#pass = (a | (b << 8) | (c << 16) | (d << 24)) >>> 0;
        this.#field = 'magic';
        return;
      case 'descriptor': {
        const isSingle = (a & 0x20) !== 0;
        const sizeBytes = SIZE_BYTES[a >> 6] ?? 0;
        this.#hasChecksum = (a & 4) !== 0;
        this.#pass =
          (isSingle ? 0 : 1) +
          (DICTIONARY_BYTES[a & 3] ?? 0) +
          (isSingle && sizeBytes === 0 ? 1 : sizeBytes);
        this.#field = 'block';
        return;
      }
      case 'block': {
        const header = a | (b << 8) | (c << 16);
        const isRle = ((header >> 1) & 3) === 1;
        this.#pass = isRle ? 1 : header >> 3;
        if ((header & 1) === 0) return;
        this.#pass += this.#hasChecksum ? 4 : 0;
        this.#field = 'magic';
      }
    }
  }
}
