import type { BlobRef } from '../../image/block.ts';
import { WireError } from '../../net/wire/errors.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { Metrics } from '../../runtime/metrics.ts';
import type { BlobReader, ReadOptions } from '../../transfer/contracts/blob-reader.ts';
import { cachedRange, checkRange, readByBlocks } from '../../transfer/read/ranges.ts';
import { BlockReads } from './block-reads.ts';
import { decodeError, decodeOpened, FRAME, type LinkFrame, type LinkLane } from './frames.ts';
import { ImageOpens, type LinkImage, type OpenedLink } from './image-opens.ts';
import { Lane } from './lane.ts';
import { BLOCKS_KEPT_MAX, OPEN_TIMEOUT_MS, READ_TIMEOUT_MS } from './limits.ts';
import { linkMetrics, type LinkMetrics } from './metrics.ts';

interface Components {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

interface Init {
  /** The agent's socket. */
  readonly path: string;
  /** How long a read waits, for the agent and in it, when its options do not say. */
  readonly readTimeoutMs?: number;
  /** Whole blocks that are kept in memory. */
  readonly blocksKeptMax?: number;
}

/**
 * The agent of this host, as a device process reads through it: opens images, reads their blobs,
 * and outlasts the agent's restarts. Reads in flight are asked again on the next connection; a read
 * fails at its deadline only.
 *
 * Two connections: one for demand reads and images, one for prefetches, so that no demand answer
 * waits for a prefetch.
 *
 * Life: constructed -> `start()`, which waits for no agent -> `open()`, reads -> `stop()`, which
 * rejects what is in flight. The agent then keeps the blobs of the images for a while, for the next
 * process.
 */
export class AgentLink implements BlobReader {
  readonly #lanes: Readonly<Record<LinkLane, Lane>>;
  readonly #images: ImageOpens;
  readonly #reads: BlockReads;
  readonly #metrics: LinkMetrics;
  #lastId = 0;

  constructor(components: Components, init: Init) {
    const { path, readTimeoutMs = READ_TIMEOUT_MS, blocksKeptMax = BLOCKS_KEPT_MAX } = init;
    this.#metrics = linkMetrics(components.metrics);
    const lane = (carries: LinkLane): Lane =>
      new Lane(components, {
        ...{ path, carries },
        events: {
          onUp: () => this.#onUp(carries),
          onDown: () => this.#onDown(carries),
          onRefused: () => this.#images.onRefused(),
          onFrame: (type, body) => this.#onFrame(type, body),
          onBlock: (id, bytes) => this.#onBlock(id, bytes),
        },
      });
    this.#lanes = { demand: lane('demand'), bulk: lane('bulk') };
    const nextId = (): number => this.#nextId();
    const onOpen = (): void => this.#pump();
    this.#images = new ImageOpens(
      { ...components, lane: this.#lanes.demand, nextId, onOpen },
      { path },
    );
    this.#reads = new BlockReads(
      {
        ...{ ...components, lanes: this.#lanes, nextId },
        isOpen: (digest) => this.#images.has(digest),
        onTry: (outcome) => this.#metrics.reads.inc({ outcome }),
      },
      { path, timeoutMs: readTimeoutMs, blocksKeptMax },
    );
    this.#metrics.connected.set({}, 0);
  }

  start(): void {
    for (const lane of Object.values(this.#lanes)) lane.start();
  }

  stop(): void {
    this.#images.stop();
    this.#reads.stop();
    for (const lane of Object.values(this.#lanes)) lane.stop();
  }

  /**
   * Opens an image, which stays open over restarts of the agent until it is closed. An image that
   * the registry or itself rules out is refused at once (`not-found`, `not-authorized`, `damaged`,
   * `invalid`); what cannot be reached, at the deadline (`unreachable`). One that is mounted is
   * opened for as long as it takes, and nobody asks whether it exists. Rejects with LinkError.
   */
  open(
    image: LinkImage,
    signal: AbortSignal,
    options: { readonly timeoutMs?: number; readonly isMounted?: boolean } = {},
  ): Promise<OpenedLink> {
    const { timeoutMs = OPEN_TIMEOUT_MS, isMounted = false } = options;
    return this.#images.open(image, isMounted ? undefined : timeoutMs, signal);
  }

  /**
   * Everything that an earlier process had open has been opened: the agent keeps no blobs for it
   * any longer.
   */
  settled(): void {
    this.#images.settled();
  }

  /** Of an image that is open. Rejects with LinkError, and with TransferError `range`. */
  async read(
    blob: BlobRef,
    offset: number,
    length: number,
    options: ReadOptions,
  ): Promise<Uint8Array> {
    checkRange(blob, offset, length);
    return readByBlocks({ offset, length }, async (index, use) =>
      use(await this.#reads.read(blob, index, options)),
    );
  }

  readCached(blob: BlobRef, offset: number, length: number): Uint8Array | undefined {
    return cachedRange(blob, { offset, length }, (index) => this.#reads.kept(blob, index));
  }

  #onUp(carries: LinkLane): void {
    if (carries === 'demand') {
      this.#metrics.connected.set({}, 1);
      this.#images.onUp();
    }
    this.#pump();
  }

  #onDown(carries: LinkLane): void {
    this.#metrics.lost.inc({});
    if (carries === 'demand') {
      this.#metrics.connected.set({}, 0);
      this.#images.onDown();
    }
    this.#reads.onDown(carries);
  }

  #pump(): void {
    this.#reads.pump('demand');
    this.#reads.pump('bulk');
  }

  #onFrame(type: LinkFrame, body: Uint8Array): void {
    if (type === FRAME.OPENED) {
      const { id, value } = decodeOpened(body);
      if (!this.#images.onOpened(id, value)) throw unasked(type, id);
      return;
    }
    if (type !== FRAME.ERROR) throw unasked(type, 0);
    const { id, value } = decodeError(body);
    if (!this.#reads.onError(id, value) && !this.#images.onError(id, value)) {
      throw unasked(type, id);
    }
  }

  #onBlock(id: number, bytes: Uint8Array): void {
    if (!this.#reads.onBlock(id, bytes)) throw unasked(FRAME.BLOCK, id);
  }

  #nextId(): number {
    this.#lastId = (this.#lastId + 1) % 2 ** 32;
    return this.#lastId;
  }
}

/** An answer to what was not asked. */
function unasked(type: LinkFrame, id: number): WireError {
  return new WireError(`a frame of type ${type} answers nothing that was asked (${id})`, {
    code: 'type',
    type,
  });
}
