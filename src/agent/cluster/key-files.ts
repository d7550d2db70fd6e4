import {
  constants,
  openSync,
  closeSync,
  fstatSync,
  fsyncSync,
  linkSync,
  readSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { makeFolders } from '../../runtime/node/folders.ts';
import { CLUSTER_KEYS_MAX } from '../../net/limits.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import { fileStamp } from '../../runtime/node/file-stamp.ts';
import type { Random } from '../../runtime/random.ts';
import { fromHex, toHex } from '../../util/bytes.ts';
import { CodedError, errorText } from '../../util/errors.ts';

/** An Ed25519 seed (RFC 8032, section 5.1.5). */
const SEED_BYTES = 32;

/** 128 bits of entropy even when the secret is written in hex. */
const CLUSTER_KEY_BYTES_MIN = 32;
const CLUSTER_KEY_BYTES_MAX = 4096;

/** How often the file of the cluster keys is looked at. */
const CLUSTER_KEY_CHECK_MS = 2_000;

const EMPTY = new Uint8Array();

/** Why a key file cannot be used. Messages name the file, never its content. */
export class KeyFileError extends CodedError<
  | { readonly code: 'missing'; readonly file: string }
  | { readonly code: 'unreadable'; readonly file: string }
  | { readonly code: 'unwritable'; readonly file: string }
  | { readonly code: 'damaged'; readonly file: string }
> {}

/**
 * The seed of this host's identity: 32 bytes, kept in the file as 64 hex digits and a newline.
 * A missing file is made, mode 0600, at once whole. Throws KeyFileError.
 */
export function loadIdentitySeed(
  file: string,
  components: { readonly logger: Logger; readonly random: Random },
): Uint8Array {
  const found = readKeyFile(file, 'identity.keyFile', components.logger);
  if (found === undefined) {
    const seed = components.random.bytes(SEED_BYTES);
    createKeyFile(file, `${toHex(seed)}\n`);
    components.logger.info({ file }, 'made a new identity for this host');
    return seed;
  }
  const seed = fromHex(found.toString('latin1').trim());
  if (seed?.length === SEED_BYTES) return seed;
  throw new KeyFileError(
    `the identity in ${file} is damaged: it must be ${2 * SEED_BYTES} hex digits, but the ` +
      `file has ${found.length} bytes that are not; ` +
      'restore it, or remove it to let this host become a new one',
    { code: 'damaged', file },
  );
}

/**
 * The secrets of the cluster, without line ends: one, or two on a line each while the key changes,
 * the new one first. Never made here: they must be the same on every host. Throws KeyFileError.
 */
export function loadClusterKeys(
  file: string,
  components: { readonly logger: Logger },
): readonly Uint8Array[] {
  const found = readKeyFile(file, 'cluster.keyFile', components.logger);
  if (found === undefined) {
    throw new KeyFileError(
      `the cluster key ${file} does not exist: make one with \`(umask 077; openssl rand -hex 32 ` +
        `> ${file})\` and give every host the same, or name another file by cluster.keyFile`,
      { code: 'missing', file },
    );
  }
  const lines = found
    .toString('latin1')
    .split(/[\r\n]+/)
    .filter((line) => line !== '');
  if (lines.length > CLUSTER_KEYS_MAX || new Set(lines).size < lines.length) {
    throw new KeyFileError(
      `the cluster key file ${file} must hold one key, or the new and the old one on a line ` +
        `each, but has ${lines.length} lines`,
      { code: 'damaged', file },
    );
  }
  // A power cut may leave zeros in the place of what was written.
  if (found.length > 0 && found.every((byte) => byte === 0)) {
    throw new KeyFileError(
      `the cluster key file ${file} is damaged: it holds zeros alone; copy that of another host`,
      { code: 'damaged', file },
    );
  }
  const wrong = lines.find(
    ({ length }) => length < CLUSTER_KEY_BYTES_MIN || length > CLUSTER_KEY_BYTES_MAX,
  );
  if (wrong === undefined && lines.length > 0) {
    return lines.map((line) => new Uint8Array(Buffer.from(line, 'latin1')));
  }
  throw new KeyFileError(
    `a cluster key in ${file} must have ${CLUSTER_KEY_BYTES_MIN} to ${CLUSTER_KEY_BYTES_MAX} ` +
      `bytes, but has ${wrong?.length ?? 0}; copy the file of another host, ` +
      'or make one for all hosts with `openssl rand -hex 32`',
    { code: 'damaged', file },
  );
}

/**
 * The cluster keys of a file that may change while the agent runs. A change that cannot be used is
 * told once and the keys from before stay valid.
 */
export class ClusterKeyFile {
  readonly #file: string;
  readonly #components: { readonly logger: Logger; readonly clock: Clock };
  #keys: readonly Uint8Array[];
  #stamp: string;
  #checkedMs: number;

  /** Reads the file. Throws KeyFileError. */
  constructor(
    components: { readonly logger: Logger; readonly clock: Clock },
    init: { readonly file: string },
  ) {
    this.#components = components;
    this.#file = init.file;
    this.#stamp = fileStamp(init.file);
    this.#checkedMs = components.clock.nowMs();
    this.#keys = loadClusterKeys(init.file, components);
  }

  /**
   * The keys that are valid now; the same list until they change. Looks at the file every
   * `CLUSTER_KEY_CHECK_MS` at most.
   */
  keys(): readonly Uint8Array[] {
    const nowMs = this.#components.clock.nowMs();
    if (nowMs < this.#checkedMs + CLUSTER_KEY_CHECK_MS) return this.#keys;
    this.#checkedMs = nowMs;
    const stamp = fileStamp(this.#file);
    if (stamp !== this.#stamp) this.#reload(stamp);
    return this.#keys;
  }

  #reload(stamp: string): void {
    this.#stamp = stamp;
    const { logger } = this.#components;
    const file = this.#file;
    try {
      const keys = loadClusterKeys(file, { logger });
      if (sameKeys(keys, this.#keys)) return;
      this.#keys = keys;
      logger.info({ file, count: keys.length }, 'took the changed cluster keys');
    } catch (error) {
      logger.error({ file, error: errorText(error) }, 'kept the cluster keys from before');
    }
  }
}

function sameKeys(a: readonly Uint8Array[], b: readonly Uint8Array[]): boolean {
  return a.length === b.length && a.every((key, i) => Buffer.compare(key, b[i] ?? EMPTY) === 0);
}

/**
 * Content of the file (cut off past the largest that is valid), or undefined when there is none.
 */
function readKeyFile(file: string, key: string, logger: Logger): Buffer | undefined {
  let descriptor: number;
  try {
    descriptor = openSync(file, 'r');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw unreadable(file, key, cause);
  }
  try {
    const found = fstatSync(descriptor);
    if (found.isDirectory()) throw new Error('it is a folder: name the file in it');
    const mode = found.mode & 0o777;
    if ((mode & 0o077) !== 0) {
      logger.warn(
        { file, mode: mode.toString(8) },
        `others on this host can reach the ${key}: run \`chmod 600 ${file}\``,
      );
    }
    const content = Buffer.alloc(CLUSTER_KEYS_MAX * (CLUSTER_KEY_BYTES_MAX + 2) + 1);
    return content.subarray(0, readSync(descriptor, content));
  } catch (cause) {
    throw unreadable(file, key, cause);
  } finally {
    closeSync(descriptor);
  }
}

function unreadable(file: string, key: string, cause: unknown): KeyFileError {
  return new KeyFileError(
    `cannot read ${file} (${key}): ${errorText(cause)}`,
    { code: 'unreadable', file },
    { cause },
  );
}

/** Makes the file with its content or not at all; fails when another process made it meanwhile. */
function createKeyFile(file: string, content: string): void {
  const draft = `${file}.${process.pid}.tmp`;
  try {
    makeFolders(dirname(file));
    rmSync(draft, { force: true });
    const descriptor = openSync(draft, 'wx', 0o600);
    try {
      writeSync(descriptor, content);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    linkSync(draft, file);
    syncFolder(dirname(file));
  } catch (cause) {
    throw new KeyFileError(
      `cannot make ${file} (identity.keyFile): ${errorText(cause)}`,
      { code: 'unwritable', file },
      { cause },
    );
  } finally {
    rmSync(draft, { force: true });
  }
}

/** The name survives a loss of power too. */
function syncFolder(folder: string): void {
  const descriptor = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
