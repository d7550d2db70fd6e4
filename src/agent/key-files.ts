import {
  mkdirSync,
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
import type { Logger } from '../runtime/logger.ts';
import type { Random } from '../runtime/random.ts';
import { fromHex, toHex } from '../util/bytes.ts';
import { CodedError, errorText } from '../util/errors.ts';

/** An Ed25519 seed (RFC 8032, section 5.1.5). */
const SEED_BYTES = 32;

/** 128 bits of entropy even when the secret is written in hex. */
const CLUSTER_KEY_BYTES_MIN = 32;
const CLUSTER_KEY_BYTES_MAX = 4096;

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
    `the identity in ${file} is damaged: it must be ${2 * SEED_BYTES} hex digits, but the file has ${found.length} bytes that are not; ` +
      'restore it, or remove it to let this host become a new one',
    { code: 'damaged', file },
  );
}

/** The secret of the cluster, without line ends around it. Never made here: it must be the same on every host. Throws KeyFileError. */
export function loadClusterKey(file: string, components: { readonly logger: Logger }): Uint8Array {
  const found = readKeyFile(file, 'cluster.keyFile', components.logger);
  if (found === undefined) {
    throw new KeyFileError(
      `the cluster key ${file} does not exist: make one with \`openssl rand -hex 32 > ${file}\` and give every host the same, or name another file by cluster.keyFile`,
      { code: 'missing', file },
    );
  }
  const key = Buffer.from(found.toString('latin1').replace(/^[\r\n]+|[\r\n]+$/g, ''), 'latin1');
  if (key.length >= CLUSTER_KEY_BYTES_MIN && key.length <= CLUSTER_KEY_BYTES_MAX) {
    return new Uint8Array(key);
  }
  throw new KeyFileError(
    `the cluster key in ${file} must have ${CLUSTER_KEY_BYTES_MIN} to ${CLUSTER_KEY_BYTES_MAX} bytes, but has ${key.length}; make one with \`openssl rand -hex 32\``,
    { code: 'damaged', file },
  );
}

/** Content of the file (cut off a byte past the largest valid key), or undefined when there is none. */
function readKeyFile(file: string, key: string, logger: Logger): Buffer | undefined {
  let descriptor: number;
  try {
    descriptor = openSync(file, 'r');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw unreadable(file, key, cause);
  }
  try {
    const mode = fstatSync(descriptor).mode & 0o777;
    if ((mode & 0o077) !== 0) {
      logger.warn(
        { file, mode: mode.toString(8) },
        `others on this host can reach the ${key}: run \`chmod 600 ${file}\``,
      );
    }
    const content = Buffer.alloc(CLUSTER_KEY_BYTES_MAX + 3);
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
    mkdirSync(dirname(file), { recursive: true });
    rmSync(draft, { force: true });
    const descriptor = openSync(draft, 'wx', 0o600);
    try {
      writeSync(descriptor, content);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    linkSync(draft, file);
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
