import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { parseByteRange } from '../src/edge/http/byte-range.ts';
import { LoopbackServer } from '../src/demo/loopback-server.ts';
import type { Clock } from '../src/runtime/clock.ts';

/** What is sent between two looks at the allowance. */
const PIECE_BYTES = 64 * 1024;

/** The allowance saves up no more than this much time, so that a pause is not followed by a burst. */
const SAVED_MS_MAX = 20;

/** A blob that the origin serves. */
export interface OriginBlob {
  readonly bytes: Buffer;
  readonly digest: string;
}

/**
 * A registry of blobs in memory that sends at most so many bytes a second, all connections together, and counts them.
 *
 * Life: constructed -> `start()` -> `stop()`.
 */
export class ThrottledOrigin extends LoopbackServer {
  readonly #clock: Clock;
  readonly #blobs = new Map<string, Buffer>();
  /** When all that was sent so far is paid for. */
  #paidMs = 0;
  sentBytes = 0;
  /** What it sends at most, from now on. */
  bytesPerSecond: number;

  constructor(components: { clock: Clock }, init: { bytesPerSecond: number }) {
    super();
    this.#clock = components.clock;
    this.bytesPerSecond = init.bytesPerSecond;
  }

  /** Random bytes, as compressed layers look to whoever passes them on. */
  add(sizeBytes: number): OriginBlob {
    const bytes = randomBytes(sizeBytes);
    const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
    this.#blobs.set(digest, bytes);
    return { bytes, digest };
  }

  urlOf(blob: OriginBlob): string {
    return `http://${this.address}/v2/bench/blobs/${blob.digest}`;
  }

  protected override async handle(
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const bytes = this.#blobs.get(
      /\/blobs\/(sha256:[0-9a-f]+)$/.exec(request.url ?? '')?.[1] ?? '',
    );
    if (bytes === undefined) {
      response.writeHead(404).end();
      return;
    }
    const range = parseByteRange(request.headers.range, bytes.length);
    const { offset, length } =
      typeof range === 'string' ? { offset: 0, length: bytes.length } : range;
    response.writeHead(range === 'whole' ? 200 : 206, {
      'content-length': length,
      ...(range !== 'whole' && {
        'content-range': `bytes ${offset}-${offset + length - 1}/${bytes.length}`,
      }),
    });
    for (let at = offset; request.method === 'GET' && at < offset + length; at += PIECE_BYTES) {
      const piece = bytes.subarray(at, Math.min(at + PIECE_BYTES, offset + length));
      await this.#pay(piece.length);
      if (!response.write(piece)) await Promise.race([once(response, 'drain'), closeOf(response)]);
    }
    response.end();
  }

  async #pay(lengthBytes: number): Promise<void> {
    const nowMs = this.#clock.nowMs();
    this.sentBytes += lengthBytes;
    this.#paidMs =
      Math.max(this.#paidMs, nowMs - SAVED_MS_MAX) + (lengthBytes * 1000) / this.bytesPerSecond;
    if (this.#paidMs > nowMs) await this.#clock.sleep(this.#paidMs - nowMs);
  }
}

async function closeOf(response: ServerResponse): Promise<void> {
  await once(response, 'close');
}
