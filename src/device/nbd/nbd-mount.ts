import { Worker } from 'node:worker_threads';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import { moduleBeside } from '../../runtime/node/module-beside.ts';
import { errorText } from '../../util/errors.ts';
import type { ReadOnlyDisk } from '../disk.ts';
import type { DeviceMetrics } from '../metrics.ts';
import type { HeldDisk, MountReads } from '../mount-reads.ts';
import { ReadCounts } from '../read-counts.ts';
import { kernelNbdPath, type KernelNbd } from '../nbd-devices.ts';
import type { StoreShare } from '../store-reader/store-shares.ts';
import type { ThreadOrder } from '../store-reader/thread-image.ts';
import { attachKernelNbd, detachKernelNbd, reattachKernelNbd } from './kernel.ts';

/** Start data of the worker thread. */
export interface NbdWorkerInit {
  readonly sizeBytes: number;
  /** Memory of its `TouchedPages`. */
  readonly touched: SharedArrayBuffer;
}

/** Message to the worker thread. */
export type NbdWorkerOrder =
  /** Serve the disk on this descriptor, and own it. */
  | { readonly kind: 'serve'; readonly id: number; readonly fd: number }
  | { readonly kind: 'hold'; readonly order: ThreadOrder }
  /** The bytes of a read, or why there are none. */
  | {
      readonly kind: 'answer';
      readonly id: number;
      readonly bytes?: Uint8Array;
      readonly error?: string;
    };

/**
 * Message of the worker thread: it lacks bytes, the connection of a `serve` has ended, or it reads
 * the store by itself from here on, or not any more.
 */
export type NbdWorkerMessage =
  | { readonly kind: 'read'; readonly id: number; readonly offset: number; readonly length: number }
  | { readonly kind: 'closed'; readonly id: number }
  | { readonly kind: 'holds' }
  | { readonly kind: 'gave-up'; readonly reason: string };

/**
 * A disk as a device /dev/nbdN of the kernel. A thread of its own speaks to the kernel, and answers
 * by itself what the store's files hold, after `hold()`.
 *
 * Life: `attach()` or `adopt()` -> reads -> its filesystem is unmounted -> `end()`. When the
 * process is killed, reads wait for the `adopt()` of the next one, and fail with EIO after
 * `deadConnectionSeconds`.
 */
export class NbdMount {
  readonly path: string;
  readonly #disk: ReadOnlyDisk;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #device: KernelNbd;
  readonly #worker: Worker;
  readonly #reads: ReadCounts;
  #waiting = 0;
  #share: StoreShare | undefined;
  #connections = 0;
  #isReconnecting = false;
  readonly #ended = Promise.withResolvers<void>();
  readonly #holds = Promise.withResolvers<void>();
  #failure: unknown;
  #isEnding = false;

  private constructor(
    components: NbdMountComponents,
    connect: (serve: (fd: number) => void) => KernelNbd,
  ) {
    this.#disk = components.disk;
    this.#clock = components.clock;
    this.#logger = components.logger;
    this.#reads = new ReadCounts(components, components.disk);
    this.#worker = this.#startWorker();
    try {
      this.#device = connect((fd) => this.#serve(fd));
    } catch (error) {
      void this.#worker.terminate();
      throw error;
    }
    this.path = kernelNbdPath(this.#device);
  }

  /** Attaches the disk to a free device. Throws DeviceError. */
  static attach(
    components: NbdMountComponents,
    init: { readonly identifier: string; readonly deadConnectionSeconds: number },
  ): NbdMount {
    const { sizeBytes } = components.disk;
    return new NbdMount(components, (serve) => attachKernelNbd(serve, { ...init, sizeBytes }));
  }

  /** Goes on serving the device of a process that has died. */
  static adopt(components: NbdMountComponents, device: KernelNbd): NbdMount {
    const mount = new NbdMount(components, () => device);
    void mount.#reconnect();
    return mount;
  }

  /** What has been read so far. */
  reads(): MountReads {
    return this.#reads.reads(this.#share, this.#waiting);
  }

  /** Resolves when its thread reads the store by itself. */
  get holds(): Promise<void> {
    return this.#holds.promise;
  }

  /** The error of the last read that failed. */
  get failure(): unknown {
    return this.#failure;
  }

  /** From here on reads are answered from the store's files. Call it once. */
  hold({ image, shares }: HeldDisk): void {
    if (this.#isEnding) return;
    this.#share = shares.add();
    const { files, counts } = this.#share;
    this.#tell({ kind: 'hold', order: { image: { ...image, shared: files }, counts } });
  }

  /** Resolves after `end()`, when everything is released. */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  /** Detaches the device: reads that wait fail, and all later ones. */
  end(): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    try {
      detachKernelNbd(this.#device);
    } catch (error) {
      this.#logger.error({ path: this.path, error: errorText(error) }, 'cannot detach a device');
    }
    void this.#worker.terminate().then(() => {
      this.#share?.end();
      this.#ended.resolve();
    });
  }

  #startWorker(): Worker {
    const workerData: NbdWorkerInit = {
      sizeBytes: this.#disk.sizeBytes,
      touched: this.#reads.touched.shared,
    };
    const worker = new Worker(moduleBeside(import.meta.url, 'nbd-worker'), {
      workerData,
      execArgv: ['--no-warnings'],
      // Files that the thread opens may be closed by this one, and their numbers used again.
      trackUnmanagedFds: false,
    });
    worker.on('message', (message: NbdWorkerMessage) => this.#take(message));
    worker.on('error', (error) =>
      this.#logger.error({ path: this.path, error: errorText(error) }, 'the NBD thread failed'),
    );
    return worker;
  }

  #take(message: NbdWorkerMessage): void {
    if (message.kind === 'read') return void this.#read(message);
    if (message.kind === 'holds') return this.#holds.resolve();
    if (message.kind === 'closed') {
      // Another one is refused, while the kernel has not noticed the end of the last.
      if (message.id === this.#connections && !this.#isReconnecting) void this.#reconnect();
      return;
    }
    const { reason } = message;
    this.#logger.error(
      { path: this.path, reason },
      'a mount does not read the store by itself any more',
    );
  }

  /** Never rejects. */
  async #read({ id, offset, length }: { id: number; offset: number; length: number }) {
    const bytes = new Uint8Array(length);
    const startMs = this.#clock.nowMs();
    this.#waiting++;
    try {
      const isCached = this.#disk.readSync(bytes, offset);
      if (!isCached) await this.#disk.read(bytes, offset);
      this.#reads.answered(isCached ? 'memory' : 'fetched', length);
      this.#tell({ kind: 'answer', id, bytes }, [bytes.buffer]);
    } catch (error) {
      this.#reads.failed();
      this.#failure = error;
      this.#logger.error(
        { path: this.path, offset, length, error: errorText(error) },
        'device read failed: the reader gets EIO',
      );
      this.#tell({ kind: 'answer', id, error: errorText(error) });
    }
    this.#waiting--;
    this.#reads.waited(this.#clock.nowMs() - startMs);
  }

  /** Gives the kernel another connection; never rejects. */
  async #reconnect(): Promise<void> {
    if (this.#isEnding) return;
    this.#isReconnecting = true;
    const serve = (fd: number): void => this.#serve(fd);
    try {
      await reattachKernelNbd({ serve, clock: this.#clock }, this.#device);
      this.#logger.info({ path: this.path }, 'the kernel has a new connection to a device');
    } catch (error) {
      this.#logger.error(
        { path: this.path, error: errorText(error) },
        'cannot give the kernel a new connection to a device: its reads will fail',
      );
    } finally {
      this.#isReconnecting = false;
    }
  }

  #serve(fd: number): void {
    this.#tell({ kind: 'serve', id: ++this.#connections, fd });
  }

  #tell(order: NbdWorkerOrder, moved: ArrayBuffer[] = []): void {
    this.#worker.postMessage(order, moved);
  }
}

interface NbdMountComponents {
  readonly disk: ReadOnlyDisk;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: DeviceMetrics;
}
