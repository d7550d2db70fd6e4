import type { Clock } from '../runtime/clock.ts';
import { within } from '../runtime/deadline.ts';
import type { Logger } from '../runtime/logger.ts';
import { assert } from '../util/assert.ts';
import { errorText } from '../util/errors.ts';
import { orAbort } from '../util/or-abort.ts';
import type { ReadOnlyDisk } from './disk.ts';

/** A disk that can be closed. */
export interface OpenDisk extends ReadOnlyDisk {
  /** Fails the reads in flight. */
  close(): void;
}

/** Waits between attempts to open the disk, in milliseconds; the last one repeats. */
const RETRY_WAITS_MS = [100, 300, 1_000, 3_000];

/**
 * The disk of a mount that a new process takes over. Its mount is in use already, so that it takes
 * reads at once, while the image is still being opened, which is tried again until it succeeds.
 *
 * Life: constructed, which starts to open -> reads -> `close()`. A read waits for the image at most
 * `openTimeoutMs`.
 */
export class ReopenedDisk implements OpenDisk {
  readonly sizeBytes: number;
  /** Resolves when it is open, or closed. */
  readonly opened: Promise<void>;
  readonly #clock: Clock;
  readonly #openTimeoutMs: number;
  readonly #closing = new AbortController();
  readonly #opening: Promise<OpenDisk>;
  #disk: OpenDisk | undefined;

  constructor(
    components: {
      open: (signal: AbortSignal) => Promise<OpenDisk>;
      clock: Clock;
      logger: Logger;
    },
    init: { reference: string; sizeBytes: number; openTimeoutMs: number },
  ) {
    this.sizeBytes = init.sizeBytes;
    this.#clock = components.clock;
    this.#openTimeoutMs = init.openTimeoutMs;
    this.#opening = this.#open(components, init.reference);
    // Each read has the error.
    this.opened = this.#opening.then(
      () => {},
      () => {},
    );
  }

  readSync(target: Uint8Array, offset: number): boolean {
    return this.#disk?.readSync(target, offset) ?? false;
  }

  async read(target: Uint8Array, offset: number): Promise<void> {
    const disk =
      this.#disk ??
      (await within(this.#clock, this.#openTimeoutMs, (signal) => orAbort(this.#opening, signal)));
    await disk.read(target, offset);
  }

  close(): void {
    this.#closing.abort(new Error('the device is closed'));
    this.#disk?.close();
  }

  async #open(
    { open, clock, logger }: ConstructorParameters<typeof ReopenedDisk>[0],
    reference: string,
  ): Promise<OpenDisk> {
    const { signal } = this.#closing;
    for (let attempt = 0; ; attempt++) {
      try {
        const disk = await open(signal);
        assert(disk.sizeBytes === this.sizeBytes, 'an image has the size that it had');
        if (signal.aborted) disk.close();
        this.#disk = disk;
        return disk;
      } catch (error) {
        signal.throwIfAborted();
        const waitMs = RETRY_WAITS_MS[Math.min(attempt, RETRY_WAITS_MS.length - 1)] ?? 0;
        logger.warn(
          { reference, error: errorText(error), waitMs },
          'cannot open the image of a mount that is in use yet: trying again',
        );
        await clock.sleep(waitMs, signal);
      }
    }
  }
}
