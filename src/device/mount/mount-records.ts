import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { makeFolders } from '../../runtime/node/folders.ts';
import type { DeviceImage } from '../../image/manifest.ts';
import { errorText } from '../../util/errors.ts';
import { DeviceError } from '../errors.ts';
import type { WritableMode } from './mount-options.ts';
import { removeEmptyFolder } from './target-folder.ts';

/** Version of the record's format, first in the file. */
const RECORD_VERSION = 2;

/** What an unmount has to remove; written before the mount begins. */
export interface MountRecord {
  /** Folder of the FUSE file; with `.json` appended, the path of the record itself. */
  readonly fuseDir: string;
  /** Mount point of the image's filesystem. */
  readonly target: string;
  /** Whether `target` was made for the mount; the unmount then removes it. */
  readonly ownsTarget: boolean;
  /** What is mounted; undefined when the record cannot be read. */
  readonly mounted: MountedDisk | undefined;
}

/** How the names begin under which a keeper has FUSE connections. */
export const KEPT_PREFIX = 'fuse:';

/** The name under which the keeper has the FUSE connection of a mount. */
export function keptName({ fuseDir }: MountRecord): string {
  return `${KEPT_PREFIX}${basename(fuseDir)}`;
}

/** An image on a device, as a new process needs it to go on serving the device. */
interface MountedDisk {
  readonly image: DeviceImage;
  /** Bytes of the block device. */
  readonly sizeBytes: number;
  /** Of a device that is written: who holds it, how, and the folder of what is written. */
  readonly upper?: {
    readonly holder: string;
    readonly mode: WritableMode;
    readonly folder: string;
  };
}

/**
 * The records of this host's mounts, by which a new process finds and undoes the mounts of a killed
 * one. Each is a JSON file beside the folder of its FUSE mount. They need not survive a loss of
 * power: mounts do not either.
 *
 *     STATE/mounts/<12 hex digits of the image>-<6 characters>/   the FUSE mount, one file `image`
 *     STATE/mounts/<...>.json             {"version":2,"target":DIR,"ownsTarget":false,
 *                                          "mounted":{"image":{...},"sizeBytes":N}}
 */
export class MountRecords {
  #dir: string;
  readonly #key: string;

  /** `key` of the configuration names the state folder. */
  constructor(init: { readonly stateDir: string; readonly key: string }) {
    this.#key = init.key;
    this.#dir = join(init.stateDir, 'mounts');
  }

  /** Folder of the records. */
  get dir(): string {
    return this.#dir;
  }

  /**
   * Creates the folders. Uses their path without symbolic links, since the kernel lists that one.
   * Throws DeviceError.
   */
  open(): void {
    try {
      makeFolders(this.#dir, 0o700);
      this.#dir = realpathSync(this.#dir);
    } catch (cause) {
      const text = `cannot make the folder ${this.#dir} for the records of mounts`;
      const detail = { code: 'failed', step: 'records' } as const;
      throw new DeviceError(`${text} (${this.#key}): ${errorText(cause)}`, detail, { cause });
    }
  }

  /**
   * Creates a folder for the FUSE mount, and its record. The folder's name starts with `name`. When
   * it throws, as on a full disk, nothing is left: the target goes too, if it was made for this.
   */
  add(name: string, mount: Omit<MountRecord, 'fuseDir'>): MountRecord {
    let fuseDir: string | undefined;
    try {
      fuseDir = mkdtempSync(join(this.#dir, `${name}-`));
      const temporary = `${fuseDir}.tmp`;
      writeFileSync(temporary, JSON.stringify({ version: RECORD_VERSION, ...mount }));
      renameSync(temporary, `${fuseDir}.json`);
      return { fuseDir, ...mount };
    } catch (error) {
      if (fuseDir !== undefined) rmSync(`${fuseDir}.tmp`, { force: true });
      if (fuseDir !== undefined) removeEmptyFolder(fuseDir);
      if (mount.ownsTarget) removeEmptyFolder(mount.target);
      throw error;
    }
  }

  /**
   * Removes a record, its folder, and a target made for the mount. Both must be unmounted; a folder
   * in use stays.
   */
  remove(record: MountRecord): void {
    removeEmptyFolder(record.fuseDir);
    if (record.ownsTarget) removeEmptyFolder(record.target);
    rmSync(`${record.fuseDir}.json`, { force: true });
  }

  /**
   * All records. Removes the remains of an `add()` or `remove()` during which the process was
   * killed.
   */
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

/**
 * Reads a record. An unreadable record still names its folder, by which the loop device and its
 * mounts are found.
 */
function readRecord(path: string): MountRecord {
  const fuseDir = path.slice(0, -'.json'.length);
  try {
    const json = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
    const target = json['target'];
    if (json['version'] === RECORD_VERSION && typeof target === 'string') {
      const mounted = json['mounted'] as MountedDisk | undefined;
      return { fuseDir, target, ownsTarget: json['ownsTarget'] === true, mounted };
    }
  } catch {
    // Treated as an unknown version.
  }
  return { fuseDir, target: '', ownsTarget: false, mounted: undefined };
}
