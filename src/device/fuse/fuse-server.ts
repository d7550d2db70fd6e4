import { closeSync } from 'node:fs';
import { MessageChannel, Worker } from 'node:worker_threads';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import { moduleBeside } from '../../runtime/node/module-beside.ts';
import { assert } from '../../util/assert.ts';
import { errorText } from '../../util/errors.ts';
import type { ReadOnlyDisk } from '../disk.ts';
import { abortAtExit, abortConnection, connectionAt } from './fuse-abort.ts';
import { mountFuse, writeAnswer } from './fuse-connection.ts';
import {
  encodeStatus,
  ERRNO,
  OUT_HEADER_BYTES,
  READ_BYTES_MAX,
  writeOutHeader,
  type Unique,
} from './fuse-protocol.ts';
import { MS_NODEV, MS_NOSUID, MS_RDONLY } from '../linux.ts';
import type { DeviceMetrics } from '../metrics.ts';
import type { HeldDisk, MountReads } from '../mount-reads.ts';
import { ReadCounts } from '../read-counts.ts';
import type { StoreShare } from '../store-reader/store-shares.ts';
import type { ThreadOrder } from '../store-reader/thread-image.ts';
import { resendRequests } from './lost-requests.ts';
import { RequestRing, type RingEntry } from './request-ring.ts';

/**
 * Most reads of one mount that wait for their bytes; the rest stays in the ring. The kernel sends
 * at most 64 direct reads.
 */
const PENDING_MAX = 256;

/**
 * Most reads answered from memory per turn of the event loop, which also serves the network: about
 * 0.5 ms of 4 KiB reads.
 */
const BATCH_MAX = 64;

/**
 * Longest wait of the first reads of a mount that is taken over for `hold()`, in milliseconds.
 */
export const HOLD_WAIT_MS = 1_000;

/** Start data of the worker thread. */
export interface FuseWorkerInit {
  readonly fd: number;
  readonly sizeBytes: number;
  readonly ring: SharedArrayBuffer;
  /** Whether the first request shows which earlier ones a dead server has taken with it. */
  readonly endsLost: boolean;
  /** Memory of its `TouchedPages`. */
  readonly touched: SharedArrayBuffer;
  /** A word that counts the messages to the thread: it looks for one when there are more. */
  readonly messages: SharedArrayBuffer;
  /** How long it waits for the first message before it reads requests, in milliseconds. */
  readonly orderWaitMs: number;
}

/**
 * Message of the worker thread: the ring has an entry for the sleeping consumer, it reads the store
 * by itself from here on, or not any more, or the connection has ended.
 */
export type FuseWorkerMessage =
  | { readonly kind: 'wake' }
  | { readonly kind: 'holds' }
  | { readonly kind: 'gave-up'; readonly reason: string }
  | { readonly kind: 'ended'; readonly reason: string };

/**
 * Serves a disk as the file `image` of a FUSE filesystem, through /dev/fuse without libfuse.
 *
 * A thread of its own reads the kernel's requests. After `hold()` it answers by itself what the
 * store's files hold, whatever the event loop does. The event loop answers the rest from the disk.
 *
 * Life: constructed -> `mount()` or `adopt()` once, which starts the service of reads -> any
 * process unmounts `path`, or `abort()` -> `ended` resolves, with everything released. This process
 * must never touch a path below `path` from a thread that must not block. An exit before that
 * aborts, since Node waits for the thread, which waits in a read of /dev/fuse. When the process is
 * killed and no other one has the descriptor, the kernel fails all reads with EIO or ENOTCONN; a
 * process that inherits the descriptor goes on with `adopt()`.
 */
export class FuseServer {
  readonly path: string;
  /** Resolves when the filesystem is unmounted and everything is released. */
  readonly ended: Promise<void>;
  /** Resolves when its thread reads the store by itself. */
  readonly holds: Promise<void>;
  readonly #disk: ReadOnlyDisk;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #shared = new SharedArrayBuffer(RequestRing.sizeBytes);
  readonly #ring = new RequestRing(this.#shared);
  readonly #again = new MessageChannel();
  /** Buffer for an answer that is written in the same step. */
  readonly #scratch = new Uint8Array(OUT_HEADER_BYTES + READ_BYTES_MAX);
  readonly #pending = new Map<number, { interrupted: boolean }>();
  readonly #messages = new Int32Array(new SharedArrayBuffer(4));
  readonly #reads: ReadCounts;
  #worker: Worker | undefined;
  #share: StoreShare | undefined;
  #failure: unknown;
  #resolveEnded: () => void = () => {};
  #resolveHolds: () => void = () => {};
  #forgetExit: () => void = () => {};
  #connection: number | undefined;
  #fd = -1;
  #isStalled = false;

  constructor(
    components: { disk: ReadOnlyDisk; clock: Clock; logger: Logger; metrics: DeviceMetrics },
    init: { path: string },
  ) {
    this.#disk = components.disk;
    this.#clock = components.clock;
    this.#logger = components.logger;
    this.path = init.path;
    this.#reads = new ReadCounts(components, components.disk);
    this.ended = new Promise((resolve) => {
      this.#resolveEnded = resolve;
    });
    this.holds = new Promise((resolve) => {
      this.#resolveHolds = resolve;
    });
  }

  /** Mounts at `path`, an empty folder, and starts to serve reads. Throws DeviceError. */
  mount(): void {
    assert(this.#fd === -1, 'a FUSE server mounts once');
    this.#fd = mountFuse(this.path, MS_RDONLY | MS_NOSUID | MS_NODEV);
    this.#startWorker();
  }

  /** The open connection to the kernel; -1 before the mount. */
  get fd(): number {
    return this.#fd;
  }

  /**
   * Goes on serving the mount of a process that has died, over its connection: takes the descriptor
   * over. False when the kernel cannot hand out again what that process had taken (before Linux
   * 6.9): those reads get EIO as soon as the kernel sends any other request. The first reads wait
   * for `hold()`, `holdWaitMs` at most, so that they need no event loop.
   */
  adopt(fd: number, { holdWaitMs = 0 } = {}): boolean {
    assert(this.#fd === -1, 'a FUSE server mounts once');
    this.#fd = fd;
    const resends = resendRequests(fd);
    this.#startWorker({ endsLost: !resends, orderWaitMs: holdWaitMs });
    return resends;
  }

  /**
   * Fails all reads of the file, now and later, in each program that still has it open or mounted.
   * False when the kernel does not let this process do so.
   */
  abort(): boolean {
    return this.#worker === undefined || abortConnection(this.path, this.#connection);
  }

  /** What has been read so far. */
  reads(): MountReads {
    return this.#reads.reads(this.#share, this.#pending.size);
  }

  /** From here on, after the mount, reads are answered from the store's files. Call it once. */
  hold({ image, shares }: HeldDisk): void {
    assert(this.#share === undefined, 'a mount has one store');
    if (this.#worker === undefined) return; // It is unmounted.
    this.#share = shares.add();
    const { files, counts } = this.#share;
    const order: ThreadOrder = { image: { ...image, shared: files }, counts };
    this.#worker.postMessage(order);
    Atomics.add(this.#messages, 0, 1);
    Atomics.notify(this.#messages, 0);
  }

  #startWorker({ endsLost = false, orderWaitMs = 0 } = {}): void {
    this.#connection = connectionAt(this.path);
    this.#forgetExit = abortAtExit(() => this.abort());
    const workerData: FuseWorkerInit = {
      fd: this.#fd,
      sizeBytes: this.#disk.sizeBytes,
      ring: this.#shared,
      endsLost,
      orderWaitMs,
      messages: this.#messages.buffer,
      touched: this.#reads.touched.shared,
    };
    const worker = new Worker(moduleBeside(import.meta.url, 'fuse-worker'), {
      workerData,
      execArgv: ['--no-warnings'],
      // Files that the thread opens may be closed by this one, and their numbers used again.
      trackUnmanagedFds: false,
    });
    this.#worker = worker;
    worker.on('message', (message: FuseWorkerMessage) => {
      if (message.kind === 'wake') return this.#drain();
      if (message.kind === 'holds') return this.#resolveHolds();
      const { kind, reason } = message;
      const fields = { path: this.path, reason };
      if (kind === 'ended') this.#logger.debug(fields, 'the FUSE connection has ended');
      else this.#logger.error(fields, 'a mount does not read the store by itself any more');
    });
    worker.on('error', (error) =>
      this.#logger.error({ path: this.path, error: errorText(error) }, 'the FUSE thread failed'),
    );
    worker.on('exit', () => this.#release());
    this.#again.port2.on('message', () => this.#drain());
    this.#again.port2.unref();
    this.#ring.sleep();
  }

  #release(): void {
    this.#forgetExit();
    closeSync(this.#fd);
    this.#worker = undefined;
    this.#share?.end();
    this.#again.port1.close();
    this.#resolveEnded();
  }

  /** Takes a batch of requests from the ring, and the rest in later turns of the event loop. */
  #drain(): void {
    for (let count = 0; count < BATCH_MAX; count++) {
      if (this.#pending.size >= PENDING_MAX) {
        this.#isStalled = true;
        return;
      }
      const entry = this.#ring.take();
      if (entry !== undefined) this.#serve(entry);
      else if (this.#ring.sleep()) return;
    }
    this.#again.port1.postMessage(0);
  }

  #serve(entry: RingEntry): void {
    const { unique, offset, length } = entry;
    if (length === 0) {
      const read = this.#pending.get(keyOf(unique));
      if (read !== undefined && !read.interrupted) {
        read.interrupted = true;
        this.#write(encodeStatus(unique, ERRNO.EINTR));
      }
      return;
    }
    const target = this.#scratch.subarray(OUT_HEADER_BYTES, OUT_HEADER_BYTES + length);
    let isServed: boolean;
    try {
      isServed = this.#disk.readSync(target, offset);
    } catch (error) {
      return this.#fail(entry, error);
    }
    if (!isServed) return void this.#fetch(entry);
    this.#reads.answered('memory', length);
    this.#answer(this.#scratch, entry);
  }

  /** Never rejects. */
  async #fetch(entry: RingEntry): Promise<void> {
    const { unique, offset, length } = entry;
    const state = { interrupted: false };
    const startMs = this.#clock.nowMs();
    this.#pending.set(keyOf(unique), state);
    const buffer = new Uint8Array(OUT_HEADER_BYTES + length);
    try {
      await this.#disk.read(buffer.subarray(OUT_HEADER_BYTES), offset);
      this.#reads.answered('fetched', length);
      if (!state.interrupted) this.#answer(buffer, entry);
    } catch (error) {
      if (!state.interrupted) this.#fail(entry, error);
    }
    this.#reads.waited(this.#clock.nowMs() - startMs);
    this.#pending.delete(keyOf(unique));
    if (this.#isStalled) {
      this.#isStalled = false;
      this.#drain();
    }
  }

  #answer(buffer: Uint8Array, { unique, length }: RingEntry): void {
    const header = new DataView(buffer.buffer, buffer.byteOffset, OUT_HEADER_BYTES);
    writeOutHeader(header, unique, { errno: 0, bodyBytes: length });
    this.#write(buffer, OUT_HEADER_BYTES + length);
  }

  /** Why a read failed last; undefined when none did. */
  get failure(): unknown {
    return this.#failure;
  }

  #fail({ unique, offset, length }: RingEntry, error: unknown): void {
    this.#failure = error;
    this.#reads.failed();
    this.#logger.error(
      { path: this.path, offset, length, error: errorText(error) },
      'device read failed: the reader gets EIO',
    );
    this.#write(encodeStatus(unique, ERRNO.EIO));
  }

  #write(bytes: Uint8Array, length = bytes.length): void {
    writeAnswer({ fd: this.#fd, path: this.path, logger: this.#logger }, bytes, length);
  }
}

/**
 * The kernel counts requests up from 2. The count stays below 2^53 for the life of any host, so
 * that a number can be the key. The highest bit marks a request that is sent again.
 */
function keyOf(unique: Unique): number {
  return (unique.high & 0x7fff_ffff) * 2 ** 32 + unique.low;
}
