import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { pipe } from 'it-pipe';
import type { BlobRef } from '../../image/block.ts';
import { type Digest, digestBytes } from '../../image/digest.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Hash } from '../../runtime/codec.ts';
import { BulkReader } from '../../transfer/read/bulk-reader.ts';
import type { BlobReader } from '../../transfer/contracts/blob-reader.ts';
import { bytesEqual } from '../../util/bytes.ts';
import { ExpiringMap } from '../../util/expiring-map.ts';
import type { ByteRange } from './byte-range.ts';
import { BlobError } from './blob-error.ts';

/** A blob up to this size is checked before anything of it leaves; as much is read ahead anyway. */
const HELD_BYTES_MAX = 4 * 1024 * 1024;

/** How long a blob that was not the one of its name is refused: its client then gets it elsewhere, from the first byte on. */
const BAD_MS = 60_000;

/** Blobs that are remembered as such. */
const BAD_MAX = 1024;

/** One answer to be sent. */
export interface BlobAnswer {
  readonly response: ServerResponse;
  /** What the client asked for: the sha256 of the whole. */
  readonly digest: Digest;
  /** The size, and the key of the blocks. */
  readonly blob: BlobRef;
  readonly range: ByteRange;
  readonly signal: AbortSignal;
  /** Sends the head; called once, before the first bytes. */
  readonly start: () => void;
  readonly onBytes: (count: number) => void;
}

/**
 * Sends blobs while they come. The last block of a whole blob leaves only when the sha256 of all of it is right, so that no client ever
 * has all bytes of a wrong blob from here. Of a part, each block was verified (docs/SECURITY.md), which is all that can be said of it.
 */
export class BlobSender {
  readonly #hash: Hash;
  readonly #bulk: BulkReader;
  readonly #bad: ExpiringMap<true, Digest>;

  constructor(components: {
    readonly reader: BlobReader;
    readonly hash: Hash;
    readonly clock: Clock;
  }) {
    this.#hash = components.hash;
    this.#bad = new ExpiringMap(components, { entriesMax: BAD_MAX });
    this.#bulk = new BulkReader(components);
  }

  /** Throws BlobError for a blob that was lately found to be another than its name says. */
  check(digest: Digest): void {
    if (this.#bad.get(digest) === true) throw badContent(digest);
  }

  /** Resolves when all of it was handed to the socket. Rejects with any error: before `start()` was called, or with the answer unfinished. */
  async send(answer: BlobAnswer): Promise<void> {
    const { response, digest, blob, range, signal } = answer;
    const isWhole = range.length === blob.sizeBytes;
    await pipe(
      this.#bulk.read(blob, range, signal),
      (pieces) => (isWhole ? this.#checked({ ...blob, digest }, pieces) : pieces),
      (pieces) => deliver(answer, pieces),
    );
    response.end();
  }

  /** Lets the pieces of a whole blob through; the last one, and a small blob altogether, only when it is the blob of its name. */
  async *#checked(
    blob: BlobRef,
    pieces: AsyncIterable<Uint8Array>,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const hasher = this.#hash.sha256Stream();
    const held: Uint8Array[] = [];
    for await (const piece of pieces) {
      hasher.update(piece);
      if (blob.sizeBytes > HELD_BYTES_MAX) yield* held.splice(0);
      held.push(piece);
    }
    if (!bytesEqual(hasher.digest(), digestBytes(blob.digest))) {
      this.#bad.set(blob.digest, true, BAD_MS);
      throw badContent(blob.digest);
    }
    yield* held;
  }
}

/** Hands the pieces to the socket as it takes them; rejects when it is gone. */
async function deliver(answer: BlobAnswer, pieces: AsyncIterable<Uint8Array>): Promise<void> {
  const { response, signal, onBytes } = answer;
  let isStarted = false;
  for await (const piece of pieces) {
    if (!isStarted) answer.start();
    isStarted = true;
    onBytes(piece.length);
    if (!response.write(piece)) await once(response, 'drain', { signal });
  }
  if (!isStarted) answer.start();
}

function badContent(digest: Digest): BlobError {
  const text = `the bytes that came for ${digest} are not that blob: they are not passed on`;
  return new BlobError(text, { code: 'bad-content' });
}
