import type { Disk, DiskFile, OpenMode } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import { assert } from '../util/assert.ts';
import { errorText } from '../util/errors.ts';

interface CachedFile {
  readonly file: Promise<DiskFile>;
  users: number;
}

/**
 * Open files, kept for reuse. Beyond `openMax`, closes idle files, least recently used first. Files
 * in use are never closed; the limits of reads and writes bound their number.
 */
export class FileCache {
  readonly #disk: Disk;
  readonly #logger: Logger;
  readonly #openMax: number;
  /** By mode and path, least recently used first. */
  readonly #files = new Map<string, CachedFile>();
  readonly #closing = new Set<Promise<void>>();

  constructor(components: { disk: Disk; logger: Logger }, init: { openMax: number }) {
    this.#disk = components.disk;
    this.#logger = components.logger;
    this.#openMax = init.openMax;
  }

  /** Runs the action on the open file. Rejects with DiskError when the file cannot be opened. */
  async use<T>(path: string, mode: OpenMode, action: (file: DiskFile) => Promise<T>): Promise<T> {
    const key = `${mode}:${path}`;
    const cached = this.#take(key, path, mode);
    try {
      return await action(await cached.file);
    } finally {
      cached.users--;
      this.#closeIdle(this.#openMax);
    }
  }

  /** Closes an idle file, so that its removal frees its space. */
  async forget(path: string): Promise<void> {
    const closing: Promise<void>[] = [];
    for (const mode of ['read', 'write'] as const) {
      const key = `${mode}:${path}`;
      const cached = this.#files.get(key);
      if (cached === undefined) continue;
      assert(cached.users === 0, `cannot forget ${path}: it is in use`);
      this.#files.delete(key);
      closing.push(this.#close(key, cached));
    }
    await Promise.all(closing);
  }

  /** Closes every idle file; at the end of the store all files are idle. */
  async closeAll(): Promise<void> {
    this.#closeIdle(0);
    await Promise.all(this.#closing);
  }

  #take(key: string, path: string, mode: OpenMode): CachedFile {
    const known = this.#files.get(key);
    const cached = known ?? { file: this.#disk.open(path, mode), users: 0 };
    cached.users++;
    // Moves to the end as the most recently used.
    this.#files.delete(key);
    this.#files.set(key, cached);
    if (known === undefined) {
      cached.file.catch(() => {
        if (this.#files.get(key) === cached) this.#files.delete(key);
      });
    }
    return cached;
  }

  #closeIdle(openMax: number): void {
    if (this.#files.size <= openMax) return;
    for (const [key, cached] of this.#files) {
      if (cached.users > 0) continue;
      this.#files.delete(key);
      const closing = this.#close(key, cached);
      this.#closing.add(closing);
      void closing.then(() => this.#closing.delete(closing));
      if (this.#files.size <= openMax) return;
    }
  }

  async #close(key: string, cached: CachedFile): Promise<void> {
    try {
      await (await cached.file).close();
    } catch (error) {
      this.#logger.warn({ file: key, error: errorText(error) }, 'the store could not close a file');
    }
  }
}
