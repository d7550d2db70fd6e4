import { SystemClock } from '../../runtime/node/clock.ts';
import { NodeCodec } from '../../runtime/node/codec.ts';
import { NodeHash } from '../../runtime/node/hash.ts';
import { errorText } from '../../util/errors.ts';
import { systemZstd } from '../system-zstd.ts';
import { HeldImage, type HeldImageInit } from './held-image.ts';
import { SharedCounts } from './shared-counts.ts';

/**
 * Message to the thread of a mount: what it reads by itself from here on, and the memory of its
 * `SharedCounts`.
 */
export interface ThreadOrder {
  readonly image: HeldImageInit;
  readonly counts: SharedArrayBuffer;
}

/** What the thread of one mount reads from the files of the store, counted. */
export class ThreadImage {
  readonly #onGaveUp: (reason: string) => void;
  readonly #counts: SharedCounts;
  /** Undefined after a defect. */
  #image: HeldImage | undefined;

  /** `onGaveUp`: it reads nothing from here on. */
  constructor(order: ThreadOrder, init: { onGaveUp: (reason: string) => void }) {
    this.#onGaveUp = init.onGaveUp;
    this.#counts = new SharedCounts(order.counts);
    const codec = new NodeCodec({ zstd: systemZstd });
    const components = { clock: new SystemClock(), codec, hash: new NodeHash() };
    this.#image = new HeldImage(components, order.image);
  }

  /** Fills the target; false when the store lacks some of its bytes. */
  readInto(target: Uint8Array, offset: number): boolean {
    try {
      const from = this.#image?.readInto(target, offset);
      if (from === undefined) return false;
      this.#counts.add(from, target.length);
      return true;
    } catch (error) {
      // A defect: the other way of reading goes on.
      this.#image = undefined;
      this.#onGaveUp(errorText(error));
      return false;
    }
  }
}
