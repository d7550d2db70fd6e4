import { ThreadImage, type ThreadOrder } from '../store-reader/thread-image.ts';
import { answerNow } from './answer-now.ts';
import type { FileRead } from './fuse-filesystem.ts';
import { OUT_HEADER_BYTES, READ_BYTES_MAX, writeOutHeader } from './fuse-protocol.ts';

/**
 * Answers reads of one mount from the files of the store, in the thread that reads the requests.
 */
export class HeldReads {
  readonly #fd: number;
  readonly #image: ThreadImage;
  readonly #bytes = new Uint8Array(OUT_HEADER_BYTES + READ_BYTES_MAX);
  readonly #header = new DataView(this.#bytes.buffer, 0, OUT_HEADER_BYTES);

  /** `fd`: of /dev/fuse. `onGaveUp`: it answers nothing from here on. */
  constructor(order: ThreadOrder, init: { fd: number; onGaveUp: (reason: string) => void }) {
    this.#fd = init.fd;
    this.#image = new ThreadImage(order, init);
  }

  /** Answers a read; false when the store lacks some of its bytes. */
  answer({ unique, offset, length }: FileRead): boolean {
    const sizeBytes = OUT_HEADER_BYTES + length;
    const target = this.#bytes.subarray(OUT_HEADER_BYTES, sizeBytes);
    if (!this.#image.readInto(target, offset)) return false;
    writeOutHeader(this.#header, unique, { errno: 0, bodyBytes: length });
    answerNow(this.#fd, this.#bytes, sizeBytes);
    return true;
  }
}
