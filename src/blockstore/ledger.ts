import type { Digest } from '../image/digest.ts';
import type { Clock, Timer } from '../runtime/clock.ts';
import type { Codec } from '../runtime/codec.ts';
import type { Disk } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import { replaceFile } from '../runtime/whole-file.ts';
import { defined } from '../util/assert.ts';
import { errorText } from '../util/errors.ts';
import type { Limiter } from '../util/limiter.ts';
import { encodeDigestList, readDigestList } from './digest-list.ts';
import type { GroupTable, GroupUse } from './group-table.ts';
import { PINS_FILE, USAGE_FILE } from './layout.ts';
import { readSmallFile } from './small-file.ts';
import { decodeUsage, encodeUsage, USAGE_BYTES_MAX } from './usage-file.ts';

/** Most pinned blobs: enough for every layer of a thousand images. */
export const PINS_MAX = 16_384;

/**
 * Milliseconds from a use to the save of the uses. Unsaved uses may be lost; a save writes a few
 * hundred KiB.
 */
const SAVE_INTERVAL_MS = 60_000;

interface LedgerComponents {
  readonly disk: Disk;
  readonly codec: Pick<Codec, 'crc32c'>;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly table: GroupTable;
  /** Limits the upkeep of the whole store. */
  readonly slow: Limiter;
}

/**
 * Remembers over restarts which blobs are pinned and when groups were used. Pins are saved at once
 * and survive a loss of power; uses are saved later and may be lost.
 *
 * Life: constructed -> `load()` -> `touch()` on reads, `savePins()` -> `stop()`, then `saveUses()`
 * for the last time.
 */
export class Ledger {
  readonly #components: LedgerComponents;
  #timer: Timer | undefined;
  /** The last save; saves run one at a time. */
  #saving: Promise<void> = Promise.resolve();

  constructor(components: LedgerComponents) {
    this.#components = components;
  }

  /** Loads pins and uses. Damaged files lose pins or uses, but never fail the start: they heal. */
  async load(): Promise<{ pins: readonly Digest[]; uses: readonly GroupUse[] }> {
    const { codec, logger } = this.#components;
    const list = { path: PINS_FILE, what: 'the list of pinned blobs', digestsMax: PINS_MAX };
    const { digests: pins, isWhole } = await readDigestList(this.#components, list);
    if (!isWhole) await this.#rewritePins(pins);
    const bytes = await readSmallFile(this.#components, USAGE_FILE, USAGE_BYTES_MAX);
    const uses = bytes === undefined ? [] : decodeUsage(codec, bytes);
    if (uses === undefined) {
      const text = 'the record of when blocks were last used is damaged; all count as used now';
      logger.warn({ path: USAGE_FILE }, text);
    }
    return { pins, uses: uses ?? [] };
  }

  /** Notes that a group was used: the uses are saved within `SAVE_INTERVAL_MS`. */
  touch(): void {
    this.#timer ??= this.#components.clock.setTimer(SAVE_INTERVAL_MS, () => {
      this.#timer = undefined;
      void this.saveUses();
    });
  }

  /** Saves the uses. Never rejects: a failure is logged. */
  saveUses(): Promise<void> {
    return this.#inTurn(async () => {
      const { codec, disk, logger, table } = this.#components;
      try {
        const bytes = encodeUsage(codec, [...table.uses()]);
        await replaceFile(disk, USAGE_FILE, bytes, { sync: false });
      } catch (error) {
        logger.warn({ error: errorText(error) }, 'the store could not save when blocks were used');
      }
    });
  }

  /**
   * Saves the current pins. Once it resolves, they survive a loss of power. Rejects with DiskError.
   */
  savePins(): Promise<void> {
    return this.#inTurn(() => {
      const { disk, table } = this.#components;
      return replaceFile(disk, PINS_FILE, encodeDigestList(table.pins), { sync: true });
    });
  }

  async #rewritePins(pins: readonly Digest[]): Promise<void> {
    const { disk, logger } = this.#components;
    try {
      await replaceFile(disk, PINS_FILE, encodeDigestList(pins), { sync: true });
    } catch (error) {
      const fields = { path: PINS_FILE, error: errorText(error) };
      logger.warn(fields, 'a part of the store could not be repaired');
    }
  }

  /** Stops the timed saves. */
  stop(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  #inTurn(action: () => Promise<void>): Promise<void> {
    const { slow } = this.#components;
    const saved = this.#saving.then(() => defined(slow.run(action), 'at most one save waits'));
    this.#saving = saved.catch(() => {});
    return saved;
  }
}
