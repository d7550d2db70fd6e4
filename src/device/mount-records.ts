import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { removeEmptyFolder } from './target-folder.ts';

/** Version of the record's form, first in the file. */
const RECORD_VERSION = 1;

/** What has to be taken away again, written before it is made. */
export interface MountRecord {
  /** Where the FUSE file is, and with `.json` after it the record itself. */
  readonly fuseDir: string;
  /** Where the image's filesystem is. */
  readonly target: string;
  /** Whether `target` was made for the mount, and goes with it. */
  readonly ownsTarget: boolean;
}

/**
 * The records of the mounts of this host, one JSON file each beside the folder of the FUSE mount, so that whatever a killed
 * process left can be found and undone. They need not survive a loss of power: mounts do not either.
 *
 *     STATE/mounts/<12 hex digits of the image>-<6 characters>/        the FUSE mount, one file `image`
 *     STATE/mounts/<...>.json                                          {"version":1,"target":DIR,"ownsTarget":false}
 */
export class MountRecords {
  #dir: string;

  constructor(init: { stateDir: string }) {
    this.#dir = join(init.stateDir, 'mounts');
  }

  /** Makes the folders. Their path without symbolic links is what the kernel will list. */
  open(): void {
    mkdirSync(this.#dir, { recursive: true, mode: 0o700 });
    this.#dir = realpathSync(this.#dir);
  }

  /** Makes a folder for the FUSE mount, and the record of it. `name` is the start of the folder's name. */
  add(name: string, mount: { target: string; ownsTarget: boolean }): MountRecord {
    const fuseDir = mkdtempSync(join(this.#dir, `${name}-`));
    const temporary = `${fuseDir}.tmp`;
    writeFileSync(temporary, JSON.stringify({ version: RECORD_VERSION, ...mount }));
    renameSync(temporary, `${fuseDir}.json`);
    return { fuseDir, ...mount };
  }

  /** Removes a record, its folder, and the target if it was made for it; both must be unmounted and are left when in use. */
  remove(record: MountRecord): void {
    removeEmptyFolder(record.fuseDir);
    if (record.ownsTarget) removeEmptyFolder(record.target);
    rmSync(`${record.fuseDir}.json`, { force: true });
  }

  /** All records. Removes what a process left that was killed between two steps of `add()` or `remove()`. */
  list(): MountRecord[] {
    const names = readdirSync(this.#dir);
    const records: MountRecord[] = [];
    for (const name of names) {
      const path = join(this.#dir, name);
      if (name.endsWith('.json')) records.push(readRecord(path));
      else if (name.endsWith('.tmp')) rmSync(path, { force: true });
      else if (!names.includes(`${name}.json`)) removeEmptyFolder(path);
    }
    return records;
  }
}

/** A record that cannot be understood still names its folder, by which the loop device and its mounts are found. */
function readRecord(path: string): MountRecord {
  const fuseDir = path.slice(0, -'.json'.length);
  try {
    const json = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
    const target = json['target'];
    if (json['version'] === RECORD_VERSION && typeof target === 'string') {
      return { fuseDir, target, ownsTarget: json['ownsTarget'] === true };
    }
  } catch {
    // As if of an unknown version.
  }
  return { fuseDir, target: '', ownsTarget: false };
}
