import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { pipe } from 'it-pipe';
import { BLOCK_SIZE_BYTES, type BlobRef } from '../../image/block.ts';
import { type Digest, digestBytes } from '../../image/digest.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Hash } from '../../runtime/codec.ts';
import { within } from '../../runtime/deadline.ts';
import type { Metrics } from '../../runtime/metrics.ts';
import { BulkReader } from '../../transfer/read/bulk-reader.ts';
import type { BlobReader } from '../../transfer/contracts/blob-reader.ts';
import { bytesEqual } from '../../util/bytes.ts';
import { ExpiringMap } from '../../util/expiring-map.ts';
import { Limiter } from '../../util/limiter.ts';
import { orAbort } from '../../util/or-abort.ts';
import type { ByteRange } from './byte-range.ts';
import { BlobError, overloadedError } from './blob-error.ts';
import { HeldBytes, type ClientWait } from './held-bytes.ts';
import { httpMetrics } from './metrics.ts';

/** A blob up to this size is checked before anything of it leaves; as much is read ahead anyway. */
const HELD_BYTES_MAX = 4 * 1024 * 1024;

/**
 * Of a larger one: a block that is held back, and one that its client is taking. What is read
 * ahead: see bulk-reader.ts.
 */
const STREAM_BYTES = 2 * BLOCK_SIZE_BYTES;

/** Memory of all answers that are sent so. */
const ALL_BYTES_MAX = 96 * 1024 * 1024;

/** Answers that are sent so at a time; containerd fetches three layers of an image. */
const RUNNING_MAX = 128;

/** Answers in line behind them. */
const WAITING_MAX = 1024;

/**
 * A client that takes less than 16 KiB/s, a block in this time, is stuck, and others may want its
 * place. (tunable)
 */
const TAKE_MS_MAX = 16_000;

/**
 * How long a blob is refused whose content did not match its digest: its client then gets it
 * elsewhere, from the first byte on.
 */
const BAD_MS = 60_000;

/** Blobs that are remembered as such. */
const BAD_MAX = 1024;

/** One answer to be sent. */
export interface BlobAnswer {
  readonly response: ServerResponse;
  /** What the client asked for: the sha256 of the whole; undefined when nobody knows it. */
  readonly digest: Digest | undefined;
  /** The size, and the key of the blocks. */
  readonly blob: BlobRef;
  readonly range: ByteRange;
  readonly signal: AbortSignal;
  /** Sends the head; called once, before the first bytes. */
  readonly start: () => void;
  readonly onBytes: (count: number) => void;
}

/**
 * Sends blobs while they come. The last block of a whole blob leaves only when the sha256 of all of
 * it is right, so that no client ever has all bytes of a wrong blob from here. Of a part, each
 * block was verified (docs/SECURITY.md), which is all that can be said of it.
 */
export class BlobSender {
  readonly #hash: Hash;
  readonly #bulk: BulkReader;
  readonly #bad: ExpiringMap<true, Digest>;
  readonly #clock: Clock;
  readonly #limiter = new Limiter({ runningMax: RUNNING_MAX, waitingMax: WAITING_MAX });
  readonly #held: HeldBytes;

  constructor(components: {
    readonly reader: BlobReader;
    readonly hash: Hash;
    readonly clock: Clock;
    readonly metrics: Metrics;
  }) {
    const { clock } = components;
    const { heldBytes, cut } = httpMetrics(components.metrics);
    this.#hash = components.hash;
    this.#clock = clock;
    this.#held = new HeldBytes(
      { clock, gauge: heldBytes, cut },
      { bytesMax: ALL_BYTES_MAX, kind: 'stream' },
    );
    this.#bad = new ExpiringMap(components, { entriesMax: BAD_MAX });
    this.#bulk = new BulkReader(components);
  }

  /** Throws BlobError for a blob whose content was recently found not to match its digest. */
  check(digest: Digest): void {
    if (this.#bad.get(digest) === true) throw badContent(digest);
  }

  /**
   * Resolves when all of it was handed to the socket; until the client took it its memory counts.
   * Rejects with any error: before `start()` was called, or with the answer unfinished. Throws
   * BlobError (`overloaded`) when too many wait.
   */
  async send(answer: BlobAnswer): Promise<void> {
    const { response, digest, blob, range, signal } = answer;
    const isWhole = range.length === blob.sizeBytes;
    const isChecked = isWhole && digest !== undefined;
    const isHeld = isChecked && range.length <= HELD_BYTES_MAX;
    const bytes = isHeld ? range.length : Math.min(range.length, STREAM_BYTES);
    const stream = (client: ClientWait): Promise<void> =>
      pipe(
        this.#bulk.read(blob, range, signal),
        (pieces) => (isChecked ? this.#checked({ ...blob, digest }, pieces) : pieces),
        (pieces) => this.#deliver(answer, pieces, client),
      );
    const turn = this.#limiter.run(
      () => this.#held.run({ response, bytes, signal }, stream),
      signal,
    );
    if (turn === undefined) {
      throw overloadedError(`${RUNNING_MAX} blobs are being sent and ${WAITING_MAX} wait already`);
    }
    await turn;
  }

  /** Sends a body that is in memory, which counts until its client took it. */
  async sendBytes(
    body: Uint8Array,
    answer: Pick<BlobAnswer, 'response' | 'signal' | 'start'>,
  ): Promise<void> {
    const { response, signal, start } = answer;
    await this.#held.run({ response, bytes: body.length, signal }, async () => {
      start();
      response.end(body);
    });
  }

  /**
   * Lets the pieces of a whole blob through; the last one, and a small blob altogether, only when
   * the content matches its digest.
   */
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

  /** Hands the pieces to the socket as it takes them; rejects when its client takes too little. */
  async #deliver(
    answer: BlobAnswer,
    pieces: AsyncIterable<Uint8Array>,
    client: ClientWait,
  ): Promise<void> {
    const { response, onBytes } = answer;
    let isStarted = false;
    for await (const piece of pieces) {
      if (!isStarted) answer.start();
      isStarted = true;
      onBytes(piece.length);
      if (!response.write(piece)) await client(this.#drained(answer));
    }
    if (!isStarted) answer.start();
    response.end();
  }

  #drained({ response, signal }: BlobAnswer): Promise<unknown> {
    const drained = once(response, 'drain');
    return within(this.#clock, TAKE_MS_MAX, (late) => orAbort(drained, late), {
      signal,
      reason: () => new BlobError('the client takes too little', { code: 'timeout' }),
    });
  }
}

function badContent(digest: Digest): BlobError {
  const text = `the bytes that came for ${digest} are not that blob: they are not passed on`;
  return new BlobError(text, { code: 'bad-content' });
}
