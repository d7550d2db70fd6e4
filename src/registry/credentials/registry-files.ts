import { createSecureContext } from 'node:tls';
import type { UserCredentials } from '../auth/auth.ts';
import type { ClientCertificate } from '../http/connections.ts';
import type { RegistryConfig } from '../registries.ts';
import { invalid, readAccessFile, type NamedFile } from './access-files.ts';

/** A registry as the configuration describes it; the files are read here. */
export interface RegistryEntry {
  readonly host: string;
  readonly insecure: boolean;
  readonly caFile?: string | undefined;
  readonly credentialsFile?: string | undefined;
  readonly certFile?: string | undefined;
  readonly clientKeyFile?: string | undefined;
  readonly proxy?: string | undefined;
  readonly mirrors: readonly string[];
  /** Prefixes of the storages to which it redirects. */
  readonly storage?: readonly string[] | undefined;
  /** Of those whose paths hold no digest. */
  readonly opaqueStorage?: readonly string[] | undefined;
}

/** A bundle of all public authorities has about 250 KiB. */
const PEM_FILE_BYTES_MAX = 4 * 1024 * 1024;

/** One line `user:password`; a cloud's token as the password has some KiB. */
const CREDENTIALS_FILE_BYTES_MAX = 64 * 1024;

/**
 * The configured registries, as the registry client takes them. Reads the files that they name, so
 * that a wrong one stops the start; credentials are read again whenever a registry asks for them.
 * Throws AccessFileError.
 */
export function registryConfigs(entries: readonly RegistryEntry[]): readonly RegistryConfig[] {
  return entries.map((entry) => {
    const { host, insecure, mirrors, storage, opaqueStorage, proxy } = entry;
    const { caFile, credentialsFile } = entry;
    const credentials = credentialsFile && fileOf(entry, 'credentialsFile', credentialsFile);
    if (credentials) readCredentials(credentials);
    return {
      host,
      insecure,
      mirrors,
      storage,
      opaqueStorage,
      proxy,
      client: readClient(entry),
      ...(caFile !== undefined && { ca: readPem(fileOf(entry, 'caFile', caFile), 'CERTIFICATE') }),
      ...(credentials && { credentials: async () => readCredentials(credentials) }),
    };
  });
}

function readClient(entry: RegistryEntry): ClientCertificate | undefined {
  const { certFile, clientKeyFile } = entry;
  if (certFile === undefined || clientKeyFile === undefined) return undefined;
  const certificate = readPem(fileOf(entry, 'certFile', certFile), 'CERTIFICATE');
  const keyFile = fileOf(entry, 'clientKeyFile', clientKeyFile);
  const key = readPem(keyFile, 'PRIVATE KEY');
  try {
    createSecureContext({ cert: certificate, key });
  } catch {
    throw invalid(keyFile, `it must hold the key, without a passphrase, of ${certFile}`);
  }
  return { certificate, key };
}

function readPem(file: NamedFile, label: string): string {
  const text = readAccessFile(file, PEM_FILE_BYTES_MAX);
  if (new RegExp(`-----BEGIN ([A-Z]+ )?${label}-----`).test(text)) return text;
  throw invalid(file, `it must hold ${label} blocks in PEM form`);
}

function readCredentials(file: NamedFile): UserCredentials {
  const text = readAccessFile(file, CREDENTIALS_FILE_BYTES_MAX);
  const line = text.replace(/\r?\n$/, '');
  // RFC 7617, section 2: the first colon ends the user's name.
  const colon = line.indexOf(':');
  if (colon > 0 && !/[\r\n]/.test(line)) {
    return { username: line.slice(0, colon), password: line.slice(colon + 1) };
  }
  throw invalid(file, 'it must hold one line user:password');
}

function fileOf(entry: RegistryEntry, name: string, path: string): NamedFile {
  return { key: `registries[host=${entry.host}].${name}`, path };
}
