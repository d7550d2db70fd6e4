import { createSecureContext } from 'node:tls';
import type { UserCredentials } from '../registry/auth.ts';
import type { ClientCertificate } from '../registry/connections.ts';
import type { ProxyEnvironment } from '../registry/proxy.ts';
import type { RegistryConfig } from '../registry/registries.ts';
import { CodedError } from '../util/errors.ts';
import { invalid, readAccessFile, type NamedFile } from './access-files.ts';
import { isProxyUrl } from './addresses.ts';
import type { Config } from './config-schema.ts';

type RegistryEntry = Config['registries'][number];

/** A bundle of all public authorities has about 250 KiB. */
const PEM_FILE_BYTES_MAX = 4 * 1024 * 1024;

/** One line `user:password`; a cloud's token as the password has some KiB. */
const CREDENTIALS_FILE_BYTES_MAX = 64 * 1024;

/** A variable of the environment names no proxy. The message does not hold its value, which may have a password. */
class ProxyVariableError extends CodedError<{
  readonly code: 'invalid';
  readonly variable: string;
}> {}

/**
 * What the registry client is told of the configured registries. Reads the files that they name, so that a wrong one stops the
 * start; credentials are read again whenever a registry asks for them. Throws AccessFileError.
 */
export function registryConfigs(entries: Config['registries']): readonly RegistryConfig[] {
  return entries.map((entry) => {
    const { host, insecure, mirrors, caFile, credentialsFile, proxy } = entry;
    const credentials = credentialsFile && fileOf(entry, 'credentialsFile', credentialsFile);
    if (credentials) readCredentials(credentials);
    return {
      host,
      insecure,
      mirrors,
      proxy,
      client: readClient(entry),
      ...(caFile !== undefined && { ca: readPem(fileOf(entry, 'caFile', caFile), 'CERTIFICATE') }),
      ...(credentials && { credentials: async () => readCredentials(credentials) }),
    };
  });
}

/** The proxies that the usual variables name, in lower case or (if that is not set) in upper case. Throws ProxyVariableError. */
export function proxyEnvironment(
  variables: Readonly<Record<string, string | undefined>>,
): ProxyEnvironment {
  const proxy = (name: string): string | undefined => {
    const value = variables[name.toLowerCase()] ?? variables[name];
    if (value === undefined || value === '') return undefined;
    const url = value.includes('://') ? value : `http://${value}`;
    if (isProxyUrl(url)) return url;
    const what = `the variable ${name} must be the URL of a proxy, http[s]://[USER:PASSWORD@]HOST[:PORT]`;
    throw new ProxyVariableError(what, { code: 'invalid', variable: name });
  };
  return {
    httpProxy: proxy('HTTP_PROXY'),
    httpsProxy: proxy('HTTPS_PROXY'),
    noProxy: variables['no_proxy'] ?? variables['NO_PROXY'],
  };
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

/** The registries as somebody sees them who has nothing of ours: no password, no certificate. */
export function withoutSecrets(registries: readonly RegistryConfig[]): readonly RegistryConfig[] {
  return registries.map(({ credentials: _credentials, client: _client, ...entry }) => entry);
}
