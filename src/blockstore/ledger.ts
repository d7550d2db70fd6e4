import { parseDigest, type Digest } from '../image/digest.ts';
import type { Clock, Timer } from '../runtime/clock.ts';
import type { Codec } from '../runtime/codec.ts';
import { DiskError, type Disk } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import { defined } from '../util/assert.ts';
import { errorText } from '../util/errors.ts';
import type { Limiter } from '../util/limiter.ts';
import type { GroupTable, GroupUse } from './group-table.ts';
import { PINS_FILE, USAGE_FILE } from './layout.ts';
import { readWhole } from './read-fully.ts';
import { decodeUsage, encodeUsage, USAGE_BYTES_MAX } from './usage-file.ts';

/** Blobs that may be pinned: every layer of a thousand images. */
export const PINS_MAX = 16_384;

/** Bytes of a line of the pins file: "sha256:", 64 digits and the end of the line. */
const PIN_LINE_BYTES = 72;

/** Time from a read to the writing down of it, in milliseconds: it may be lost, and costs a file of a few hundred KiB. */
const SAVE_INTERVAL_MS = 60_000;

interface LedgerComponents {
  readonly disk: Disk;
  readonly codec: Pick<Codec, 'crc32c'>;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly table: GroupTable;
  /** Of the whole store: its upkeep takes turns. */
  readonly slow: Limiter;
}

/**
 * Remembers over restarts what is pinned (at once, and over a loss of power) and when groups were used (some time later, if at all).
 *
 * Life: constructed -> `load()` -> `touch()` on reads, `savePins()` -> `stop()`, then `saveUses()` for the last time.
 */
export class Ledger {
  readonly #components: LedgerComponents;
  #timer: Timer | undefined;
  /** The writing under way: one at a time. */
  #saving: Promise<void> = Promise.resolve();

  constructor(components: LedgerComponents) {
    this.#components = components;
  }

  /** What was remembered. Damage costs the memory and never the start. */
  async load(): Promise<{ pins: readonly Digest[]; uses: readonly GroupUse[] }> {
    const { codec, logger } = this.#components;
    const text = new TextDecoder().decode(await this.#read(PINS_FILE, PINS_MAX * PIN_LINE_BYTES));
    const lines = text.split('\n').filter((line) => line !== '');
    const pins = lines.flatMap((line) => parseDigest(line) ?? []);
    if (pins.length < lines.length) {
      const fields = { lineCount: lines.length - pins.length };
      logger.warn(fields, 'lines of the list of pinned blobs are damaged and are ignored');
    }
    const bytes = await this.#read(USAGE_FILE, USAGE_BYTES_MAX);
    const uses = bytes.length === 0 ? [] : decodeUsage(codec, bytes);
    if (uses === undefined) logger.warn({}, 'when blocks were last used is not known any more');
    return { pins: pins.slice(0, PINS_MAX), uses: uses ?? [] };
  }

  /** A group was used. */
  touch(): void {
    this.#timer ??= this.#components.clock.setTimer(SAVE_INTERVAL_MS, () => {
      this.#timer = undefined;
      void this.saveUses();
    });
  }

  /** Never rejects: a disk that does not take it has said so before. */
  saveUses(): Promise<void> {
    return this.#inTurn(async () => {
      const { codec, logger, table } = this.#components;
      try {
        await this.#replace(USAGE_FILE, encodeUsage(codec, [...table.uses()]), { sync: false });
      } catch (error) {
        logger.warn({ error: errorText(error) }, 'the store could not note when blocks were used');
      }
    });
  }

  /** When it resolves, the pins of now survive a loss of power. Rejects with DiskError. */
  savePins(): Promise<void> {
    return this.#inTurn(() => {
      const lines = [...this.#components.table.pins].map((digest) => `${digest}\n`).join('');
      return this.#replace(PINS_FILE, new TextEncoder().encode(lines), { sync: true });
    });
  }

  /** Nothing is written by itself any more. */
  stop(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  #inTurn(action: () => Promise<void>): Promise<void> {
    const { slow } = this.#components;
    const saved = this.#saving.then(() => defined(slow.run(action), 'one note waits at most'));
    this.#saving = saved.catch(() => {});
    return saved;
  }

  async #read(path: string, sizeBytesMax: number): Promise<Uint8Array> {
    const { disk, logger } = this.#components;
    try {
      const file = await disk.open(path, 'read');
      try {
        return await readWhole(file, sizeBytesMax);
      } finally {
        await file.close();
      }
    } catch (error) {
      if (!(error instanceof DiskError && error.code === 'not-found')) {
        logger.warn({ path, error: errorText(error) }, 'a part of the store is unreadable');
      }
      return new Uint8Array(0);
    }
  }

  /** Under another name first: a crash leaves the old file or the new one. */
  async #replace(path: string, bytes: Uint8Array, options: { sync: boolean }): Promise<void> {
    const { disk } = this.#components;
    const temporary = `${path}.new`;
    const file = await disk.open(temporary, 'write');
    try {
      await file.truncate(0);
      await file.write(bytes, 0);
      if (options.sync) await file.sync();
    } finally {
      await file.close();
    }
    await disk.rename(temporary, path);
    if (options.sync) await disk.syncFolder('');
  }
}
