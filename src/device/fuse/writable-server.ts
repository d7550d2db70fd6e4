import { closeSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { DiskError } from '../../runtime/disk.ts';
import type { Logger } from '../../runtime/logger.ts';
import { moduleBeside } from '../../runtime/node/module-beside.ts';
import { assert } from '../../util/assert.ts';
import { errorText } from '../../util/errors.ts';
import type { WritableDisk } from '../disk.ts';
import { MS_NODEV, MS_NOSUID } from '../linux.ts';
import type { DeviceMetrics } from '../metrics.ts';
import { abortAtExit, abortConnection, connectionAt } from './fuse-abort.ts';
import { mountFuse, writeAnswer } from './fuse-connection.ts';
import { encodeStatus, ERRNO, OUT_HEADER_BYTES, writeOutHeader } from './fuse-protocol.ts';
import { resendRequests } from './lost-requests.ts';
import { TouchedPages } from '../touched-pages.ts';
import type { MountReads } from '../mount-reads.ts';
import { encodeWritten, type WritableAction } from './writable-filesystem.ts';

/** Start data of the worker thread. */
export interface WritableWorkerInit {
  readonly fd: number;
  readonly sizeBytes: number;
  /** Whether the first request shows which earlier ones a dead server has taken with it. */
  readonly endsLost: boolean;
}

/** Message of the worker thread: what the disk has to do. */
export type WritableCall = Exclude<WritableAction, { readonly kind: 'answer' | 'none' }>;

/**
 * Serves a writable disk as the file `image` of a FUSE filesystem. fsync(2) of the file, which a
 * loop device makes of its flushes, is `flush()`; holes are `zero()`.
 *
 * Life: constructed -> `mount()` or `adopt()` once -> any process unmounts `path` -> `ended`
 * resolves; the disk is the caller's. The rules of `FuseServer` for this process hold here too.
 */
export class WritableFuseServer {
  readonly path: string;
  /** Resolves when the filesystem is unmounted and the disk has ended all its work. */
  readonly ended: Promise<void>;
  readonly #disk: WritableDisk;
  readonly #logger: Logger;
  readonly #metrics: DeviceMetrics;
  readonly #calls = new Set<Promise<void>>();
  readonly #touched: TouchedPages;
  readonly #reads = { fetchedBytes: 0, failed: 0 };
  #hasFailed = false;
  #resolveEnded: () => void = () => {};
  #forgetExit: () => void = () => {};
  #fd = -1;

  constructor(
    components: { disk: WritableDisk; logger: Logger; metrics: DeviceMetrics },
    init: { path: string },
  ) {
    this.#disk = components.disk;
    this.#logger = components.logger;
    this.#metrics = components.metrics;
    this.path = init.path;
    this.#touched = new TouchedPages(components.disk.sizeBytes);
    this.ended = new Promise((resolve) => {
      this.#resolveEnded = resolve;
    });
  }

  /** Mounts at `path`, an empty folder, and starts to serve. Throws DeviceError. */
  mount(): void {
    assert(this.#fd === -1, 'a FUSE server mounts once');
    this.#fd = mountFuse(this.path, MS_NOSUID | MS_NODEV);
    this.#startWorker();
  }

  /** The open connection to the kernel; -1 before the mount. */
  get fd(): number {
    return this.#fd;
  }

  /** Whether a write or a flush has failed, or all do: the filesystem above takes no more. */
  get hasFailed(): boolean {
    return this.#hasFailed;
  }

  /** `FuseServer.adopt()`, for a disk that shows all that the dead process had answered. */
  adopt(fd: number): boolean {
    assert(this.#fd === -1, 'a FUSE server mounts once');
    this.#fd = fd;
    const resends = resendRequests(fd);
    this.#startWorker({ endsLost: !resends });
    return resends;
  }

  /** What has been read so far; of what was written too. */
  reads(): MountReads {
    const none = { storeBytes: 0, memoryBytes: 0, stalled: 0 };
    const touchedBytes = this.#touched.count();
    return { ...none, ...this.#reads, touchedBytes, waiting: this.#calls.size };
  }

  #startWorker({ endsLost = false } = {}): void {
    const connection = connectionAt(this.path);
    this.#forgetExit = abortAtExit(() => abortConnection(this.path, connection));
    const { sizeBytes } = this.#disk;
    const workerData: WritableWorkerInit = { fd: this.#fd, sizeBytes, endsLost };
    const worker = new Worker(moduleBeside(import.meta.url, 'writable-worker'), {
      workerData,
      execArgv: ['--no-warnings'],
    });
    worker.on('message', (call: WritableCall) => {
      const work = this.#serve(call).finally(() => this.#calls.delete(work));
      this.#calls.add(work);
    });
    worker.on('error', (error) =>
      this.#logger.error({ path: this.path, error: errorText(error) }, 'the FUSE thread failed'),
    );
    worker.on('exit', () => void this.#release());
  }

  async #release(): Promise<void> {
    this.#hasFailed = true;
    this.#forgetExit();
    await Promise.all(this.#calls);
    closeSync(this.#fd);
    this.#resolveEnded();
  }

  /** Never rejects. */
  async #serve(call: WritableCall): Promise<void> {
    try {
      this.#write(await this.#answerTo(call));
    } catch (error) {
      this.#count(call);
      const isFull = error instanceof DiskError && error.code === 'no-space';
      this.#logger.error(
        { path: this.path, error: errorText(error) },
        `${call.kind} on a writable device failed: the program gets ${isFull ? 'ENOSPC' : 'EIO'}`,
      );
      this.#write(encodeStatus(call.unique, isFull ? ERRNO.ENOSPC : ERRNO.EIO));
    }
  }

  #count({ kind }: WritableCall): void {
    if (kind === 'read') {
      this.#reads.failed++;
      this.#metrics.readErrors.inc({});
    } else {
      this.#hasFailed = true;
      this.#metrics.writeErrors.inc({});
    }
  }

  async #answerTo(call: WritableCall): Promise<Uint8Array> {
    const { unique } = call;
    switch (call.kind) {
      case 'read': {
        const answer = new Uint8Array(OUT_HEADER_BYTES + call.length);
        this.#touched.mark(call.offset, call.length);
        await this.#disk.read(answer.subarray(OUT_HEADER_BYTES), call.offset);
        this.#reads.fetchedBytes += call.length;
        writeOutHeader(new DataView(answer.buffer), unique, { errno: 0, bodyBytes: call.length });
        return answer;
      }
      case 'write':
        await this.#disk.write(call.offset, call.bytes);
        return encodeWritten(unique, call.bytes.length);
      case 'zero':
        await this.#disk.zero(call.offset, call.length);
        return encodeStatus(unique, 0);
      case 'flush':
        await this.#disk.flush();
        return encodeStatus(unique, 0);
    }
  }

  #write(bytes: Uint8Array): void {
    writeAnswer({ fd: this.#fd, path: this.path, logger: this.#logger }, bytes);
  }
}
