import type { Socket } from 'node:net';
import {
  decodeHello,
  decodeId,
  decodeOpen,
  decodeRead,
  encodeBlockHead,
  encodeError,
  encodeOpened,
  encodeRefused,
  encodeWelcome,
  FRAME,
  FROM_DEVICE,
  LINK_FRAMES,
  type LinkFailure,
  type LinkFrame,
  type LinkLane,
  type ReadRequest,
  type OpenRequest,
} from '../../device/link/frames.ts';
import { HELLO_MS, OPENING_MAX, OPENS_MAX, READS_IN_FLIGHT_MAX } from '../../device/link/limits.ts';
import { BLOCK_SIZE_BYTES, BLOCKS_MAX, blockLength } from '../../image/block.ts';
import { MANIFEST_SIZE_BYTES_MAX } from '../../image/manifest.ts';
import { badValue, WireError } from '../../net/wire/errors.ts';
import { FrameParser } from '../../net/wire/frame-parser.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { BlobReader } from '../../transfer/contracts/blob-reader.ts';
import { Limiter } from '../../util/limiter.ts';
import { errorText } from '../../util/errors.ts';
import type { DeviceImage, DeviceImages } from './device-images.ts';
import { linkFailureOf } from './link-failure.ts';
import type { DeviceSocketMetrics } from './metrics.ts';

/**
 * Bytes that a device process leaves unread, beside blocks that wait for their turn: a block, small
 * frames, and manifests of images that it opens.
 */
const UNREAD_BYTES_MAX = (OPENING_MAX + 1) * (MANIFEST_SIZE_BYTES_MAX + BLOCK_SIZE_BYTES);

const UNKNOWN: LinkFailure = { code: 'unknown-blob', text: 'no image that is open has the blob' };
const OVERLOADED: LinkFailure = { code: 'overloaded', text: 'too much is asked at a time' };

interface Components {
  readonly reader: Pick<BlobReader, 'read'>;
  readonly images: Pick<DeviceImages, 'open' | 'close' | 'lose' | 'has'>;
  /** All images that an earlier connection had open are open again. */
  readonly onSettled: () => void;
  /** As many images more are open; fewer when negative. */
  readonly onImages: (change: number) => void;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: DeviceSocketMetrics;
}

/**
 * One connection of a device process. What it has open ends with it, and what it asked is given up.
 * Bytes that break the protocol end it.
 */
export class DeviceConnection {
  readonly #parts: Components;
  readonly #socket: Socket;
  readonly #agent: string;
  #lane: LinkLane | undefined;
  /** What is asked and not answered yet: how to give it up. */
  readonly #asked = new Map<number, AbortController>();
  #readCount = 0;
  /**
   * Blocks go out one at a time, the next when the socket took the last: so each counts as a read
   * until it is on its way, and no longer.
   */
  readonly #blocks = new Limiter({ runningMax: 1, waitingMax: READS_IN_FLIGHT_MAX.demand });
  #openingCount = 0;
  readonly #images = new Map<number, DeviceImage>();
  #isClosed = false;

  /** `agent`: the version that the device process is told. */
  constructor(components: Components, init: { readonly socket: Socket; readonly agent: string }) {
    this.#parts = components;
    this.#socket = init.socket;
    this.#agent = init.agent;
    this.#listen();
  }

  close(): void {
    this.#socket.destroy();
    this.#onClosed();
  }

  #listen(): void {
    const { clock } = this.#parts;
    const socket = this.#socket;
    const parser = new FrameParser(
      {
        onFrame: (type, body) => this.#onFrame(type, body),
        onAnswer: () => undefined,
        onAnswerEnd: () => {},
      },
      LINK_FRAMES,
      FROM_DEVICE,
    );
    const timer = clock.setTimer(HELLO_MS, () => {
      if (this.#lane === undefined) this.close();
    });
    socket.on('data', (piece: Uint8Array) => {
      if (this.#isClosed) return;
      try {
        parser.accept(piece);
      } catch (error) {
        if (!(error instanceof WireError)) throw error;
        this.#end(errorText(error));
      }
    });
    socket.once('error', () => this.close());
    socket.once('close', () => {
      timer.cancel();
      this.close();
    });
  }

  #onFrame(type: LinkFrame, body: Uint8Array): void {
    if (this.#isClosed) return;
    if (this.#lane === undefined) return this.#onHello(type, body);
    switch (type) {
      case FRAME.OPEN: {
        const { id, value } = decodeOpen(body);
        return this.#onOpen(this.#fresh(id), value);
      }
      case FRAME.READ: {
        const { id, value } = decodeRead(body);
        if (value.index >= BLOCKS_MAX || blockLength(value.blob.sizeBytes, value.index) <= 0) {
          throw badValue('index', 'that of a block of the blob', value.index);
        }
        return this.#onRead(this.#fresh(id), value);
      }
      case FRAME.CANCEL:
        return this.#asked.get(decodeId(body))?.abort();
      case FRAME.CLOSE:
        return this.#onClose(decodeId(body));
      case FRAME.SETTLED:
        return this.#parts.onSettled();
      default:
        throw new WireError(`a frame of type ${type} does not belong here`, { code: 'type', type });
    }
  }

  #onHello(type: LinkFrame, body: Uint8Array): void {
    if (type !== FRAME.HELLO) throw badValue('type', 'HELLO at first', type);
    const { version, lane } = decodeHello(body);
    if (lane === undefined) {
      const why = `the device process speaks version ${version}`;
      this.#socket.end(encodeRefused(why));
      return this.#end(why);
    }
    this.#lane = lane;
    this.#send(encodeWelcome(this.#agent));
  }

  /** The id of something new. Throws WireError when it is in use. */
  #fresh(id: number): number {
    if (!this.#asked.has(id) && !this.#images.has(id)) return id;
    throw badValue('id', 'one that is not in use', id);
  }

  #onOpen(id: number, request: OpenRequest): void {
    const isFull = this.#images.size + this.#openingCount >= OPENS_MAX;
    if (isFull || this.#openingCount >= OPENING_MAX) {
      this.#parts.metrics.opens.inc({ outcome: OVERLOADED.code });
      return this.#send(encodeError(id, OVERLOADED));
    }
    const ending = new AbortController();
    this.#asked.set(id, ending);
    this.#openingCount++;
    void this.#open(id, request, ending.signal);
  }

  async #open(id: number, request: OpenRequest, signal: AbortSignal): Promise<void> {
    const { images, metrics } = this.#parts;
    try {
      const image = await images.open(request, signal);
      this.#asked.delete(id);
      if (this.#isClosed) return images.lose(image);
      if (signal.aborted) {
        images.close(image);
        signal.throwIfAborted();
      }
      this.#images.set(id, image);
      this.#parts.onImages(1);
      metrics.opens.inc({ outcome: 'opened' });
      this.#send(encodeOpened(id, image.reply));
    } catch (error) {
      this.#asked.delete(id);
      const failure = this.#failureOf(error, signal);
      metrics.opens.inc({ outcome: failure.code });
      this.#send(encodeError(id, failure));
    } finally {
      this.#openingCount--;
    }
  }

  #onClose(id: number): void {
    const image = this.#images.get(id);
    if (image === undefined) throw badValue('id', 'that of an open image', id);
    this.#images.delete(id);
    this.#parts.onImages(-1);
    this.#parts.images.close(image);
  }

  #onRead(id: number, request: ReadRequest): void {
    const { images, metrics } = this.#parts;
    const isFull = this.#readCount >= READS_IN_FLIGHT_MAX[this.#lane ?? 'bulk'];
    if (isFull || !images.has(request.blob.digest)) {
      const failure = isFull ? OVERLOADED : UNKNOWN;
      metrics.reads.inc({ kind: request.kind, outcome: failure.code });
      return this.#send(encodeError(id, failure));
    }
    const ending = new AbortController();
    this.#asked.set(id, ending);
    this.#readCount++;
    void this.#read(id, request, ending.signal);
  }

  async #read(id: number, request: ReadRequest, signal: AbortSignal): Promise<void> {
    const { reader, metrics } = this.#parts;
    const { blob, index, kind, timeoutMs, endsOnNo } = request;
    try {
      const length = blockLength(blob.sizeBytes, index);
      const options = { kind, timeoutMs, endsOnNo, signal };
      const bytes = await reader.read(blob, index * BLOCK_SIZE_BYTES, length, options);
      this.#asked.delete(id);
      metrics.reads.inc({ kind, outcome: 'block' });
      await this.#blocks.run(() => this.#sendBlock(id, bytes));
    } catch (error) {
      this.#asked.delete(id);
      const failure = this.#failureOf(error, signal);
      metrics.reads.inc({ kind, outcome: failure.code });
      this.#send(encodeError(id, failure));
    } finally {
      this.#readCount--;
    }
  }

  #failureOf(error: unknown, signal: AbortSignal): LinkFailure {
    if (signal.aborted) return { code: 'cancelled', text: 'cancelled' };
    const failure = linkFailureOf(error);
    if (failure !== undefined) return failure;
    this.#parts.logger.error({ error }, 'a request of a device process failed');
    return { code: 'failed', text: 'internal error; the log of the agent says more' };
  }

  /** Resolves when the socket has taken the block, or is gone. */
  #sendBlock(id: number, bytes: Uint8Array): Promise<void> {
    return new Promise((resolve) => {
      if (this.#isClosed) return resolve();
      this.#socket.cork();
      this.#send(encodeBlockHead(id, bytes.length));
      this.#socket.write(bytes, () => resolve());
      this.#socket.uncork();
    });
  }

  #send(frame: Uint8Array): void {
    if (this.#isClosed) return;
    if (this.#socket.writableLength > UNREAD_BYTES_MAX) return this.#end('it does not read');
    this.#socket.write(frame);
  }

  /** Ends the connection for something that the device process did. */
  #end(why: string): void {
    this.#parts.logger.warn({ why }, 'the connection of a device process is closed');
    this.#onClosed();
    this.#socket.destroySoon();
  }

  #onClosed(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const ending of this.#asked.values()) ending.abort();
    for (const image of this.#images.values()) this.#parts.images.lose(image);
    this.#parts.onImages(-this.#images.size);
    this.#images.clear();
  }
}
