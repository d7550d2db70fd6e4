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
}

/** Knows whether the file system has room, from an answer that is a second old at most while anybody asks. */
export class SpaceGuard {
  readonly #components: SpaceGuardComponents;
  readonly #freeBytesMin: number;
  #checkedMs = Number.NEGATIVE_INFINITY;
  #checking: Promise<void> | undefined;
  #hasRoom = true;

  constructor(components: SpaceGuardComponents, init: { freeBytesMin: number }) {
    this.#components = components;
    this.#freeBytesMin = init.freeBytesMin;
  }

  /** Whether more may be written; starts a new check when the last one is old. */
  hasRoom(): boolean {
    if (this.#components.clock.nowMs() - this.#checkedMs >= CHECK_INTERVAL_MS) void this.check();
    return this.#hasRoom;
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
    } catch (error) {
      logger.warn({ error: errorText(error) }, 'the free space of the disk is unknown');
      this.#hasRoom = true;
    }
  }
}
