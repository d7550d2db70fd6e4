import type { Credentials, UserCredentials } from '../auth/auth.ts';
import { registryName } from '../reference.ts';
import { invalid, readAccessFile, type NamedFile } from './access-files.ts';

/** Real ones have some KiB; a Kubernetes secret has 1 MiB at most. */
const FILE_BYTES_MAX = 1024 * 1024;

/** Registries that one file names. */
const ENTRIES_MAX = 1024;

/** What follows `docker-credential-` in the name of a program: no path, no option. */
const HELPER = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** What holds for the repositories of a registry. */
interface Entry<T> {
  /** `host[:port]`; `*` stands for any part of a name between two dots. */
  readonly host: RegExp;
  readonly isExact: boolean;
  /** First parts of the repositories' names; empty for all. */
  readonly path: string;
  readonly value: T;
}

/**
 * A Docker config file (`config.json`), or a Kubernetes image pull secret, which has the same form.
 */
export interface DockerConfig {
  /** Each list with what is most particular first. */
  readonly credentials: readonly Entry<Credentials>[];
  readonly helpers: readonly Entry<string>[];
  /** The helper for registries without one of their own. */
  readonly store: string | undefined;
}

/**
 * Reads a file of either form: with `auths`, or (`.dockercfg`) the registries at the top. Throws
 * AccessFileError.
 */
export function readDockerConfig(file: NamedFile): DockerConfig {
  const text = readAccessFile(file, FILE_BYTES_MAX);
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    // The parser's words quote the text, which holds passwords.
    throw invalid(file, 'it must be JSON, as `docker login` writes it');
  }
  const top = mapping(content, file, 'it');
  const isOld = file.path.endsWith('.dockercfg') && !('auths' in top);
  const auths = mapping((isOld ? top : top['auths']) ?? {}, file, '"auths"');
  const helpers = mapping((isOld ? undefined : top['credHelpers']) ?? {}, file, '"credHelpers"');
  const store = isOld ? undefined : top['credsStore'];
  return {
    credentials: entries(auths, file, (value, name) => readAuth(value, file, name)),
    helpers: entries(helpers, file, (value) => helperName(value, file)),
    store: store === undefined || store === '' ? undefined : helperName(store, file),
  };
}

/** What the list says of a repository, `registry` being the one name of its registry. */
export function findEntry<T>(
  list: readonly Entry<T>[],
  registry: string,
  repository: string,
): T | undefined {
  return list.find(
    ({ host, path }) =>
      host.test(registry) && (path === '' || `${repository}/`.startsWith(`${path}/`)),
  )?.value;
}

function entries<T>(
  found: Readonly<Record<string, unknown>>,
  file: NamedFile,
  read: (value: unknown, name: string) => T | undefined,
): readonly Entry<T>[] {
  const names = Object.keys(found);
  if (names.length > ENTRIES_MAX) {
    throw invalid(file, `it names ${names.length} registries, and at most ${ENTRIES_MAX} are read`);
  }
  return names
    .flatMap((name) => {
      const value = read(found[name], name);
      return value === undefined ? [] : [{ ...parseServer(name), value }];
    })
    .sort((a, b) => b.path.length - a.path.length || Number(b.isExact) - Number(a.isExact));
}

/**
 * `host[:port][/path]`, perhaps with a scheme and with the version of the API, such as
 * `https://index.docker.io/v1/`.
 */
function parseServer(name: string): Pick<Entry<unknown>, 'host' | 'isExact' | 'path'> {
  const [host = '', ...parts] = name.replace(/^https?:\/\//i, '').split('/');
  const path = parts.filter((part) => part !== '');
  if (path[0] === 'v1' || path[0] === 'v2') path.shift();
  const pattern = registryName(host)
    .replace(/[\\^$.|?+()[\]{}]/g, '\\$&')
    .replaceAll('*', '[^.:]*');
  return {
    host: new RegExp(`^${pattern}$`),
    isExact: !host.includes('*'),
    path: path.join('/'),
  };
}

/** Undefined for an empty entry, as `docker login` leaves beside a credential store. */
function readAuth(value: unknown, file: NamedFile, name: string): Credentials | undefined {
  const auth = mapping(value, file, JSON.stringify(name));
  const text = (field: string): string => {
    const found = auth[field] ?? '';
    if (typeof found === 'string') return found;
    throw invalid(file, `${field} of ${JSON.stringify(name)} must be a text`);
  };
  if (text('registrytoken') !== '') return { registryToken: text('registrytoken') };
  if (text('identitytoken') !== '') return { identityToken: text('identitytoken') };
  if (text('auth') !== '') return readBasic(text('auth'), file, name);
  if (text('username') === '' && text('password') === '') return undefined;
  return { username: text('username'), password: text('password') };
}

function readBasic(auth: string, file: NamedFile, name: string): UserCredentials {
  // Old versions of Docker filled the password up with zeros.
  const text = Buffer.from(auth, 'base64').toString('utf8').replace(/\0+$/, '');
  const colon = text.indexOf(':');
  if (colon > 0) return { username: text.slice(0, colon), password: text.slice(colon + 1) };
  throw invalid(file, `auth of ${JSON.stringify(name)} must be user:password in base64`);
}

function helperName(value: unknown, file: NamedFile): string {
  if (typeof value === 'string' && HELPER.test(value)) return value;
  const rule = '1 to 64 letters, digits, ".", "_" or "-", the first a letter or digit';
  throw invalid(file, `the name of a credential helper must be ${rule}`);
}

function mapping(value: unknown, file: NamedFile, what: string): Readonly<Record<string, unknown>> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    return value as Readonly<Record<string, unknown>>;
  }
  throw invalid(file, `${what} must be a JSON object`);
}
