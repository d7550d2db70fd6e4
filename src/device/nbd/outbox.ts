/** The part of a socket that an outbox uses; `writableLength` counts what the kernel lacks. */
export interface Outlet {
  readonly writableLength: number;
  write(bytes: Uint8Array, done: () => void): void;
}

/** Bytes of a slab: four replies of the size that copying clients ask for. */
const SLAB_BYTES = 1024 * 1024 + 4096;

/** Most free slabs that are kept. */
const FREE_MAX = 2;

interface Slab {
  readonly bytes: Uint8Array;
  /** Writes of its bytes that the kernel has not taken whole. */
  pending: number;
}

/**
 * Gathers the replies of one connection, so that those to commands that came together go out in one
 * write, and reuses the memory of replies that are gone.
 *
 * Life: `reserve()` -> fill -> `commit()`, any number of times -> `flush()`. The buffer of a
 * `reserve()` is valid until the next call.
 */
export class Outbox {
  readonly #outlet: Outlet;
  readonly #free: Slab[] = [];
  #slab: Slab = newSlab();
  /** Where the replies that are not written yet begin and end in the slab. */
  #start = 0;
  #end = 0;

  constructor(outlet: Outlet) {
    this.#outlet = outlet;
  }

  /** Most bytes of one `reserve()`. */
  static readonly bytesMax = SLAB_BYTES;

  /** Room for a reply of `length` bytes, with unspecified content. */
  reserve(length: number): Uint8Array {
    if (this.#start === this.#end && this.#slab.pending === 0) this.#start = this.#end = 0;
    if (this.#end + length > SLAB_BYTES) {
      this.flush();
      if (this.#end + length > SLAB_BYTES) this.#changeSlab();
    }
    return this.#slab.bytes.subarray(this.#end, this.#end + length);
  }

  /** Keeps the first `length` bytes of the room for the next `flush()`. */
  commit(length: number): void {
    this.#end += length;
  }

  /** Keeps a copy of a small reply. */
  put(bytes: Uint8Array): void {
    this.reserve(bytes.length).set(bytes);
    this.commit(bytes.length);
  }

  /** Writes the gathered replies. */
  flush(): void {
    if (this.#end === this.#start) return;
    const slab = this.#slab;
    slab.pending++;
    this.#outlet.write(slab.bytes.subarray(this.#start, this.#end), () => {
      if (--slab.pending === 0 && slab !== this.#slab) this.#keep(slab);
    });
    // The kernel has all of it, so that nothing reads the slab any more.
    if (this.#outlet.writableLength === 0) this.#end = 0;
    this.#start = this.#end;
  }

  /**
   * Writes the gathered replies and then these bytes. Resolves when the kernel has them, or the
   * connection is gone; nobody may change them before.
   */
  send(bytes: Uint8Array): Promise<void> {
    this.flush();
    return new Promise((resolve) => this.#outlet.write(bytes, () => resolve()));
  }

  #changeSlab(): void {
    const full = this.#slab;
    this.#slab = this.#free.pop() ?? newSlab();
    this.#start = 0;
    this.#end = 0;
    if (full.pending === 0) this.#keep(full);
  }

  #keep(slab: Slab): void {
    if (this.#free.length < FREE_MAX) this.#free.push(slab);
  }
}

function newSlab(): Slab {
  return { bytes: Buffer.allocUnsafeSlow(SLAB_BYTES), pending: 0 };
}
