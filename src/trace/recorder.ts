import type { ImageSegment } from '../image/layer-stack.ts';
import type { TraceAccess } from '../image/trace.ts';
import { IntervalSet } from '../util/interval-set.ts';

/**
 * Records which bytes of an image's layers are read, in the order in which they are first read.
 * What continues the access before it becomes a part of that.
 */
export class TraceRecorder {
  readonly #accessesMax: number;
  readonly #seen = new Map<number, IntervalSet>();
  readonly #accesses: TraceAccess[] = [];
  #droppedBytes = 0;
  #isStopped = false;

  /** At most `accessesMax` accesses are kept. */
  constructor(init: { readonly accessesMax: number }) {
    this.#accessesMax = init.accessesMax;
  }

  /** The accesses so far, in order. */
  get accesses(): readonly TraceAccess[] {
    return this.#accesses;
  }

  /** Bytes that were read after the last access that is kept. */
  get droppedBytes(): number {
    return this.#droppedBytes;
  }

  /** These parts of the device are read. */
  add(segments: readonly ImageSegment[]): void {
    if (this.#isStopped) return;
    for (const { layer, moffset, length } of segments) {
      if (layer === undefined) continue;
      const seen = this.#seen.get(layer) ?? new IntervalSet();
      this.#seen.set(layer, seen);
      for (const { start, end } of seen.add(moffset, moffset + length)) {
        this.#append({ op: 'read', layer, offset: start, length: end - start });
      }
    }
  }

  /** What is read from now on is not recorded. */
  stop(): void {
    this.#isStopped = true;
  }

  #append(access: TraceAccess): void {
    const last = this.#accesses.at(-1);
    if (last?.layer === access.layer && last.offset + last.length === access.offset) {
      this.#accesses[this.#accesses.length - 1] = { ...last, length: last.length + access.length };
    } else if (this.#accesses.length < this.#accessesMax) this.#accesses.push(access);
    else this.#droppedBytes += access.length;
  }
}
