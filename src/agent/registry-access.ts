import { readFileSync, statSync } from 'node:fs';
import { CodedError, errorText } from '../util/errors.ts';
import type { Credentials } from '../registry/auth.ts';
import type { RegistryConfig } from '../registry/registries.ts';
import type { Config } from './config-schema.ts';

type RegistryEntry = Config['registries'][number];

/** A bundle of all public authorities has about 250 KiB. */
const CA_FILE_BYTES_MAX = 4 * 1024 * 1024;

/** One line `user:password`; a cloud's token as the password has some KiB. */
const CREDENTIALS_FILE_BYTES_MAX = 64 * 1024;

/** A file that a registry's entry names cannot be used. */
class RegistryFileError extends CodedError<
  | { readonly code: 'unreadable'; readonly key: string; readonly path: string }
  | { readonly code: 'invalid'; readonly key: string; readonly path: string }
> {}

/**
 * What the registry client is told of the configured registries. Reads the files that they name, so that a wrong one stops the
 * start; credentials are read again whenever a registry asks for them. Throws RegistryFileError.
 */
export function registryConfigs(entries: Config['registries']): readonly RegistryConfig[] {
  return entries.map((entry) => {
    const { host, insecure, mirrors, caFile, credentialsFile } = entry;
    if (credentialsFile !== undefined) readCredentials(entry, credentialsFile);
    return {
      host,
      insecure,
      mirrors,
      ...(caFile !== undefined && { ca: readCa(entry, caFile) }),
      ...(credentialsFile !== undefined && {
        credentials: async () => readCredentials(entry, credentialsFile),
      }),
    };
  });
}

function readCa(entry: RegistryEntry, path: string): string {
  const key = keyOf(entry, 'caFile');
  const text = read(path, { key, sizeBytesMax: CA_FILE_BYTES_MAX });
  if (text.includes('-----BEGIN CERTIFICATE-----')) return text;
  throw invalid(path, key, 'it must hold certificates in PEM form');
}

function readCredentials(entry: RegistryEntry, path: string): Credentials {
  const key = keyOf(entry, 'credentialsFile');
  const text = read(path, { key, sizeBytesMax: CREDENTIALS_FILE_BYTES_MAX });
  const line = text.replace(/\r?\n$/, '');
  // RFC 7617, section 2: the first colon ends the user's name.
  const colon = line.indexOf(':');
  if (colon > 0 && !/[\r\n]/.test(line)) {
    return { username: line.slice(0, colon), password: line.slice(colon + 1) };
  }
  throw invalid(path, key, 'it must hold one line user:password');
}

function read(path: string, init: { key: string; sizeBytesMax: number }): string {
  const { key, sizeBytesMax } = init;
  let sizeBytes: number;
  let text = '';
  try {
    sizeBytes = statSync(path).size;
    if (sizeBytes <= sizeBytesMax) text = readFileSync(path, 'utf8');
  } catch (cause) {
    const why = `${key} is ${JSON.stringify(path)}, which cannot be read: ${errorText(cause)}`;
    throw new RegistryFileError(why, { code: 'unreadable', key, path }, { cause });
  }
  if (sizeBytes <= sizeBytesMax) return text;
  throw invalid(path, key, `it has ${sizeBytes} bytes, and at most ${sizeBytesMax} are read`);
}

function invalid(path: string, key: string, rule: string): RegistryFileError {
  const what = `${key} is ${JSON.stringify(path)}: ${rule}`;
  return new RegistryFileError(what, { code: 'invalid', key, path });
}

function keyOf(entry: RegistryEntry, name: string): string {
  return `registries[host=${entry.host}].${name}`;
}
