import type { Clock } from '../runtime/clock.ts';
import type { Disk } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import { errorText } from '../util/errors.ts';

/**
 * Longest age of an answer of the disk, in milliseconds: a fast disk writes less in a second than
 * the space kept free.
 */
const CHECK_INTERVAL_MS = 1000;

interface SpaceGuardComponents {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Bytes that the store takes of the disk now. */
  readonly usedBytes: () => number;
  /** The disk is full, or has room again. */
  readonly onRoom: (hasRoom: boolean) => void;
}

/**
 * Knows whether the file system has room. While it is asked, its knowledge is at most about a
 * second old.
 */
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

  /**
   * Most bytes that the store may take so that the disk has room again; infinite while it has room.
   */
  get limitBytes(): number {
    return this.#limitBytes;
  }

  /**
   * Asks the disk for its free space. Never rejects: when that fails, a full disk still shows by
   * failed writes.
   */
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
        logger.warn(fields, 'the disk is full; the store takes no blocks');
      if (!this.#hasRoom && hasRoom)
        logger.info(fields, 'the disk has room again; the store takes blocks');
      this.#setRoom(hasRoom);
      const missingBytes = this.#freeBytesMin - freeBytes;
      const usedBytes = this.#components.usedBytes();
      this.#limitBytes = hasRoom ? Number.POSITIVE_INFINITY : Math.max(0, usedBytes - missingBytes);
    } catch (error) {
      logger.warn(
        { error: errorText(error) },
        'cannot find out the free space of the disk; the store takes blocks until writes fail',
      );
      this.#setRoom(true);
      this.#limitBytes = Number.POSITIVE_INFINITY;
    }
  }

  #setRoom(hasRoom: boolean): void {
    if (this.#hasRoom !== hasRoom) this.#components.onRoom(hasRoom);
    this.#hasRoom = hasRoom;
  }
}
