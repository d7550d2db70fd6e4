import { SystemClock } from '../../runtime/node/clock.ts';
import { NodeCodec } from '../../runtime/node/codec.ts';
import { NodeHash } from '../../runtime/node/hash.ts';
import { errorText } from '../../util/errors.ts';
import { HeldImage } from '../store-reader/held-image.ts';
import { SharedCounts } from '../store-reader/shared-counts.ts';
import { systemZstd } from '../system-zstd.ts';
import { answerNow } from './answer-now.ts';
import type { FileRead } from './fuse-filesystem.ts';
import { OUT_HEADER_BYTES, READ_BYTES_MAX, writeOutHeader } from './fuse-protocol.ts';
import type { FuseWorkerOrder } from './fuse-server.ts';

/**
 * Answers reads of one mount from the files of the store, in the thread that reads the requests.
 */
export class HeldReads {
  readonly #fd: number;
  readonly #onGaveUp: (reason: string) => void;
  readonly #counts: SharedCounts;
  readonly #bytes = new Uint8Array(OUT_HEADER_BYTES + READ_BYTES_MAX);
  readonly #header = new DataView(this.#bytes.buffer, 0, OUT_HEADER_BYTES);
  /** Undefined after a defect. */
  #image: HeldImage | undefined;

  /** `fd`: of /dev/fuse. `onGaveUp`: it answers nothing from here on. */
  constructor(order: FuseWorkerOrder, init: { fd: number; onGaveUp: (reason: string) => void }) {
    this.#fd = init.fd;
    this.#onGaveUp = init.onGaveUp;
    this.#counts = new SharedCounts(order.counts);
    const codec = new NodeCodec({ zstd: systemZstd });
    const components = { clock: new SystemClock(), codec, hash: new NodeHash() };
    this.#image = new HeldImage(components, order.image);
  }

  /** Answers a read; false when the store lacks some of its bytes. */
  answer({ unique, offset, length }: FileRead): boolean {
    if (this.#image === undefined) return false;
    const sizeBytes = OUT_HEADER_BYTES + length;
    try {
      const target = this.#bytes.subarray(OUT_HEADER_BYTES, sizeBytes);
      const from = this.#image.readInto(target, offset);
      if (from === undefined) return false;
      this.#counts.add(from, length);
    } catch (error) {
      // A defect: the other way of reading goes on.
      this.#image = undefined;
      this.#onGaveUp(errorText(error));
      return false;
    }
    writeOutHeader(this.#header, unique, { errno: 0, bodyBytes: length });
    answerNow(this.#fd, this.#bytes, sizeBytes);
    return true;
  }
}
