import { z } from 'zod';
import { parseListenAddress } from '../../registry/hosts.ts';
import { parseSizeBytes } from '../../util/sizes.ts';
import { NO_SOCKET, SOCKET_PATH_BYTES_MAX } from './admin-socket.ts';

/** Maximum number of entries in any list of the configuration. */
export const LIST_LENGTH_MAX = 64;

/** Linux: PATH_MAX. */
const PATH_LENGTH_MAX = 4096;

/**
 * Texts about a key for people: in docs/CONFIGURATION.md, in `xylem agent --help` and in error
 * lines.
 */
interface Words {
  readonly description: string;
  /** Completes "must be ...". */
  readonly rule: string;
  /** Unit of a number that is not a size in bytes. */
  readonly unit?: 'count' | 'seconds';
}

/** A key with its texts. */
export function key<S extends z.ZodType>(schema: S, words: Words): S {
  return schema.meta({ ...words });
}

/** A text that is accepted. */
export function text(accepts: (value: string) => boolean): z.ZodString {
  return z.string().refine(accepts);
}

/** A list of at most `LIST_LENGTH_MAX` entries. */
export function list<S extends z.ZodType>(element: S): z.ZodArray<S> {
  return z.array(element).max(LIST_LENGTH_MAX);
}

/** An entry of a list, whose rule is told of a wrong one. */
export function item<S extends z.ZodType>(schema: S, rule: string): S {
  return schema.meta({ rule });
}

/** A path. */
export const path = text(
  (value) => value.length > 0 && value.length <= PATH_LENGTH_MAX && !value.includes('\0'),
);
/** A path that starts at the root. */
export const absolutePath = path.refine((value) => value.startsWith('/'));
/** The rule of `path`. */
export const PATH_RULE =
  `a path of 1 to ${PATH_LENGTH_MAX} characters; ` +
  'a relative path starts at the working directory';

/** An address to listen on. */
export const listenAddress = text((value) => parseListenAddress(value) !== undefined);
/** The rule of `listenAddress`. */
export const LISTEN_RULE = 'HOST:PORT, an IPv6 host in brackets; port 0 lets the system choose';

/** A size in bytes, which a person may write with a unit. */
export function size(min: number, max: number) {
  return z
    .union([z.string(), z.number()])
    .transform((value) => (typeof value === 'number' ? value : parseSizeBytes(value)))
    .pipe(z.int().min(min).max(max))
    .meta({ unit: 'bytes' });
}

/** A whole number; flags and variables give it as text. */
export function count(min: number, max: number) {
  return z
    .union([z.string().regex(/^[0-9]{1,9}$/), z.number()])
    .transform(Number)
    .pipe(z.int().min(min).max(max));
}

/** Where a Unix socket is, or that there is none. */
export const socketPath = text((value) => {
  if (value === '' || value === NO_SOCKET) return true;
  return value.startsWith('/') && Buffer.byteLength(value) <= SOCKET_PATH_BYTES_MAX;
}).transform((value) => value || NO_SOCKET);

const SOCKET_BYTES = `at most ${SOCKET_PATH_BYTES_MAX} bytes`;
/** The rule of `socketPath`. */
export const SOCKET_RULE = `an absolute path of ${SOCKET_BYTES}, or "${NO_SOCKET}"`;
