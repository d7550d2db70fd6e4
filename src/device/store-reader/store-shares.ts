import { readFileSync } from 'node:fs';
import type { Clock, Timer } from '../../runtime/clock.ts';
import type { Counter } from '../../runtime/metrics.ts';
import { MIB } from '../../util/bytes.ts';
import { SharedCounts, type HeldCounts } from './shared-counts.ts';
import { SharedFiles } from './shared-files.ts';

/** Files of the store that all mounts of a host hold open, at most half of what a process may. */
const HOST_FILES_MAX = 16 * 1024;
/** Fewest files of a mount: those of a few layers. */
const FILES_MIN = 8;

/** Whole blocks that all mounts of a host hold in memory, in bytes; and the bounds of one mount. */
const HOST_MEMORY_BYTES_MAX = 256 * MIB;
const MEMORY_BYTES_MAX = 32 * MIB;
const MEMORY_BYTES_MIN = MIB;

/** Time between two looks for removed files, and at the counts, in milliseconds. */
const SWEEP_MS = 2000;

/** The limit of open files where the system does not tell it. */
const FILES_LIMIT_UNKNOWN = 1024;

/** What one mount may hold, and what it has read. */
export interface StoreShare {
  /** Memory of its `SharedFiles` and of its `SharedCounts`. */
  readonly files: SharedArrayBuffer;
  readonly counts: SharedArrayBuffer;
  /** What its thread has read so far. */
  read(): HeldCounts;
  /** Its thread has ended: closes what it had open, and counts the rest. */
  end(): void;
}

/**
 * Divides open files and memory among the mounts whose threads read the store's files: equal parts
 * within the bounds above. Closes files that the store has removed, so that their space is free,
 * and counts what the threads have read.
 *
 * Life: constructed -> `add()` for each mount -> `end()` of each share.
 */
export class StoreShares {
  readonly #clock: Clock;
  readonly #readBytes: Counter;
  readonly #hostFilesMax = Math.min(HOST_FILES_MAX, Math.floor(filesLimit() / 2));
  readonly #shares = new Set<{ files: SharedFiles; counts: SharedCounts; counted: HeldCounts }>();
  #timer: Timer | undefined;

  /** `readBytes`: label `from` = store | memory. */
  constructor(components: { clock: Clock; readBytes: Counter }) {
    this.#clock = components.clock;
    this.#readBytes = components.readBytes;
  }

  add(): StoreShare {
    const memory = {
      files: new SharedArrayBuffer(SharedFiles.sizeBytes),
      counts: new SharedArrayBuffer(SharedCounts.sizeBytes),
    };
    const share = {
      files: new SharedFiles(memory.files),
      counts: new SharedCounts(memory.counts),
      counted: { storeBytes: 0, memoryBytes: 0 },
    };
    this.#shares.add(share);
    this.#divide();
    this.#timer ??= this.#clock.setTimer(SWEEP_MS, () => this.#sweep());
    const end = (): void => {
      if (!this.#shares.delete(share)) return;
      share.files.closeAll();
      this.#count(share);
      this.#divide();
    };
    return { ...memory, read: () => share.counts.read(), end };
  }

  #divide(): void {
    const count = Math.max(1, this.#shares.size);
    const filesMax = Math.max(FILES_MIN, Math.floor(this.#hostFilesMax / count));
    const memory = Math.floor(HOST_MEMORY_BYTES_MAX / count);
    const memoryBytesMax = Math.min(MEMORY_BYTES_MAX, Math.max(MEMORY_BYTES_MIN, memory));
    for (const { files } of this.#shares) files.setBounds({ filesMax, memoryBytesMax });
  }

  #sweep(): void {
    for (const share of this.#shares) {
      share.files.sweep();
      this.#count(share);
    }
    const isOver = this.#shares.size === 0;
    this.#timer = isOver ? undefined : this.#clock.setTimer(SWEEP_MS, () => this.#sweep());
  }

  #count(share: { counts: SharedCounts; counted: HeldCounts }): void {
    const now = share.counts.read();
    const { storeBytes, memoryBytes } = share.counted;
    this.#readBytes.inc({ from: 'store' }, now.storeBytes - storeBytes);
    this.#readBytes.inc({ from: 'memory' }, now.memoryBytes - memoryBytes);
    share.counted = now;
  }
}

/** How many files this process may open. */
function filesLimit(): number {
  const limits = readFileSync('/proc/self/limits', 'utf8');
  return Number(/^Max open files +([0-9]+)/m.exec(limits)?.[1] ?? FILES_LIMIT_UNKNOWN);
}
