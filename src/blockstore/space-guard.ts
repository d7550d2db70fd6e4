import type { Clock } from '../runtime/clock.ts';
import type { Disk } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import { errorText } from '../util/errors.ts';

/** Age of an answer after which the disk is asked again, in milliseconds: a second of a fast disk is below the space kept free. */
const CHECK_INTERVAL_MS = 1000;

interface SpaceGuardComponents {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly logger: Logger;
  /** What the store takes of the disk now. */
  readonly usedBytes: () => number;
}

/** Knows whether the file system has room, from an answer that is a second old at most while anybody asks. */
export class SpaceGuard {
  readonly #components: SpaceGuardComponents;
  readonly #freeBytesMin: number;
  #checkedMs = Number.NEGATIVE_INFINITY;
  #checking: Promise<void> | undefined;
  #hasRoom = true;
  #limitBytes = Number.POSITIVE_INFINITY;

  constructor(components: SpaceGuardComponents, init: { freeBytesMin: number }) {
    this.#components = components;
    this.#freeBytesMin = init.freeBytesMin;
  }

  /** Whether more may be written; starts a new check when the last one is old. */
  hasRoom(): boolean {
    if (this.#components.clock.nowMs() - this.#checkedMs >= CHECK_INTERVAL_MS) void this.check();
    return this.#hasRoom;
  }

  /** What the store may take at most so that the disk has room again; no limit while it has. */
  get limitBytes(): number {
    return this.#limitBytes;
  }

  /** Asks the disk. Never rejects: a disk that does not tell is one that tells when it is full. */
  check(): Promise<void> {
    this.#checking ??= this.#check().finally(() => (this.#checking = undefined));
    return this.#checking;
  }

  async #check(): Promise<void> {
    const { disk, clock, logger } = this.#components;
    this.#checkedMs = clock.nowMs();
    try {
      const freeBytes = await disk.freeBytes();
      const hasRoom = freeBytes >= this.#freeBytesMin;
      const fields = { freeBytes, freeBytesMin: this.#freeBytesMin };
      if (this.#hasRoom && !hasRoom)
        logger.warn(fields, 'the disk is full: no more blocks are kept');
      if (!this.#hasRoom && hasRoom) logger.info(fields, 'the disk has room again');
      this.#hasRoom = hasRoom;
      const missingBytes = this.#freeBytesMin - freeBytes;
      const usedBytes = this.#components.usedBytes();
      this.#limitBytes = hasRoom ? Number.POSITIVE_INFINITY : Math.max(0, usedBytes - missingBytes);
    } catch (error) {
      logger.warn({ error: errorText(error) }, 'the free space of the disk is unknown');
      this.#hasRoom = true;
      this.#limitBytes = Number.POSITIVE_INFINITY;
    }
  }
}
