import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { chmod, chown, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from '../../runtime/logger.ts';
import { errorText } from '../../util/errors.ts';
import type { OwnFolders } from '../catalog/mounts.ts';
import { BLOCK_FILE } from './unpacked-layer.ts';
import { makeFolders } from '../../runtime/node/folders.ts';

/**
 * Bytes below a folder on its way out from which the rest is removed by itself. Programs make
 * folders in each other until no path of the host leads to the inner ones: one has 4,095 bytes.
 */
const DEEP_BYTES = 1024;

/**
 * The folders of snapshots, below one:
 *
 *     snapshots/ID/fs       files of the snapshot
 *     snapshots/ID/work     what overlayfs needs beside them
 *     snapshots/ID/device   link to the folder of the device below, beside other folders
 *     removed/ID            on its way out
 *     removed/deep-...      what lay too deep in one
 *
 * Folders without a record are what a killed process has left: `clear()` removes them. Removals are
 * made one after another in the background, since a layer may have 100,000 files.
 */
export class SnapshotFolders {
  readonly #snapshots: string;
  readonly #removed: string;
  readonly #logger: Logger;
  readonly #waiting = new Set<string>();
  #removing: Promise<void> | undefined;

  constructor(components: { logger: Logger }, init: { dir: string }) {
    this.#logger = components.logger;
    this.#snapshots = join(init.dir, 'snapshots');
    this.#removed = join(init.dir, 'removed');
  }

  /** Makes the folders of all snapshots. */
  open(): void {
    for (const path of [this.#snapshots, this.#removed]) {
      makeFolders(path, 0o700);
    }
  }

  of(id: number): OwnFolders {
    const folder = join(this.#snapshots, `${id}`);
    return { files: join(folder, 'fs'), work: join(folder, 'work') };
  }

  /** The file of a block layer that was unpacked into the snapshot. */
  blockFile(id: number): string {
    return join(this.of(id).files, BLOCK_FILE);
  }

  /** Makes the folders of a new snapshot, in place of what a killed process left there. */
  make(id: number): void {
    const { files, work } = this.of(id);
    rmSync(join(this.#snapshots, `${id}`), { recursive: true, force: true });
    mkdirSync(files, { recursive: true });
    mkdirSync(work, { mode: 0o711 });
  }

  /** Gives the files of a snapshot the owner and the mode of the folder that they lie above. */
  async resemble(id: number, below: string): Promise<void> {
    const { files } = this.of(id);
    const { uid, gid, mode } = await stat(below);
    await chown(files, uid, gid);
    await chmod(files, mode & 0o7777);
  }

  /**
   * The path of a device's folder, below the folder that all snapshots have in common. containerd
   * shortens a long list of lower folders by that; options of a mount have at most one page.
   */
  link(id: number, deviceDir: string): string {
    const path = join(this.#snapshots, `${id}`, 'device');
    rmSync(path, { force: true });
    symlinkSync(deviceDir, path);
    return path;
  }

  /** Removes the folders of a snapshot without a record; in the background, and never rejects. */
  remove(id: number): void {
    const from = join(this.#snapshots, `${id}`);
    if (!existsSync(from)) return;
    // Its name is free at once, and a process that dies now leaves it where `clear()` finds it.
    const to = join(this.#removed, `${id}`);
    try {
      renameSync(from, to);
      this.#queue(to);
    } catch (error) {
      this.#logger.warn({ path: from, error: errorText(error) }, 'cannot remove a snapshot');
    }
  }

  /** Whether any snapshot has files. */
  hasFiles(): boolean {
    return readdirSync(this.#snapshots).some((name) => {
      const files = join(this.#snapshots, name, 'fs');
      return existsSync(files) && readdirSync(files).length > 0;
    });
  }

  /** Removes all folders without a record, in the background. */
  clear(isKept: (id: number) => boolean): void {
    for (const name of readdirSync(this.#removed)) this.#queue(join(this.#removed, name));
    for (const name of readdirSync(this.#snapshots)) {
      if (/^[0-9]+$/.test(name) && !isKept(Number(name))) this.remove(Number(name));
    }
  }

  /** Resolves when nothing is left to remove. */
  async settled(): Promise<void> {
    await this.#removing;
  }

  #queue(path: string): void {
    this.#waiting.add(path);
    this.#removing ??= this.#removeAll();
  }

  async #removeAll(): Promise<void> {
    // Also those that come meanwhile.
    for (const path of this.#waiting) {
      try {
        await rm(path, { recursive: true, force: true });
        this.#waiting.delete(path);
      } catch (error) {
        // Once more, after all that lay too deep.
        this.#waiting.delete(path);
        if (await this.#hasTakenApart(path, error)) this.#waiting.add(path);
      }
    }
    this.#removing = undefined;
  }

  /** Moves what lies too deep in a folder out of it, to be removed by itself. Never rejects. */
  async #hasTakenApart(path: string, why: unknown): Promise<boolean> {
    let error = why;
    try {
      let isMoved = false;
      if ((why as NodeJS.ErrnoException).code === 'ENAMETOOLONG') {
        for await (const deep of deepFoldersIn(Buffer.from(path))) {
          const to = mkdtempSync(join(this.#removed, 'deep-'));
          await rename(deep, join(to, 'folder'));
          this.#waiting.add(to);
          isMoved = true;
        }
      }
      if (isMoved) return true;
    } catch (failure) {
      error = failure;
    }
    const text = errorText(error);
    this.#logger.warn({ path, error: text }, 'cannot remove a snapshot; the next start does');
    return false;
  }
}

/** The folders at a depth that paths still reach. Names are bytes, and need not be text. */
async function* deepFoldersIn(folder: Buffer): AsyncGenerator<Buffer> {
  const todo = [folder];
  for (let at = todo.pop(); at !== undefined; at = todo.pop()) {
    const entries = await readdir(at, { withFileTypes: true, encoding: 'buffer' });
    for (const entry of entries) {
      if (!entry.isDirectory()) continue;
      const inner = Buffer.concat([at, Buffer.from('/'), entry.name]);
      if (inner.length - folder.length > DEEP_BYTES) yield inner;
      else todo.push(inner);
    }
  }
}
