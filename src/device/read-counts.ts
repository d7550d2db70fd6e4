import type { DeviceMetrics } from './metrics.ts';
import { STALL_MS, type MountReads } from './mount-reads.ts';
import type { StoreShare } from './store-reader/store-shares.ts';
import { TouchedPages } from './touched-pages.ts';

/** Counts the reads of one mount, for people who look at it and for the metrics of the process. */
export class ReadCounts {
  /** The thread of the mount marks them, too. */
  readonly touched: TouchedPages;
  readonly #metrics: Pick<DeviceMetrics, 'readBytes' | 'readErrors' | 'waitSeconds' | 'stalls'>;
  #memoryBytes = 0;
  #fetchedBytes = 0;
  #stalled = 0;
  #failed = 0;

  constructor(
    components: { readonly metrics: DeviceMetrics },
    init: { readonly sizeBytes: number },
  ) {
    this.#metrics = components.metrics;
    this.touched = new TouchedPages(init.sizeBytes);
  }

  /** A read was answered, from where its bytes came. */
  answered(from: 'memory' | 'fetched', lengthBytes: number): void {
    this.#metrics.readBytes.inc({ from }, lengthBytes);
    if (from === 'memory') this.#memoryBytes += lengthBytes;
    else this.#fetchedBytes += lengthBytes;
  }

  /** A read got EIO. */
  failed(): void {
    this.#metrics.readErrors.inc({});
    this.#failed++;
  }

  /** A read that had to wait for its bytes has ended. */
  waited(waitMs: number): void {
    this.#metrics.waitSeconds.observe({}, waitMs / 1000);
    if (waitMs <= STALL_MS) return;
    this.#metrics.stalls.inc({});
    this.#stalled++;
  }

  /** What has been read so far, with what the thread of the mount read of the store. */
  reads(share: StoreShare | undefined, waiting: number): MountReads {
    const held = share?.read();
    return {
      touchedBytes: this.touched.count(),
      storeBytes: held?.storeBytes ?? 0,
      memoryBytes: this.#memoryBytes + (held?.memoryBytes ?? 0),
      fetchedBytes: this.#fetchedBytes,
      stalled: this.#stalled,
      failed: this.#failed,
      waiting,
    };
  }
}
