import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { ConvertError } from '../../convert/errors.ts';
import { registriesIn, type PlaceComponents } from '../../convert/places/open-place.ts';
import { AccessFileError } from '../../registry/credentials/access-files.ts';
import type { CredentialFiles } from '../../registry/credentials/keychain.ts';
import type { RegistryEntry } from '../../registry/credentials/registry-files.ts';
import { RegistryError } from '../../registry/errors.ts';
import type { TlsHints } from '../../registry/http/tls-errors.ts';
import type { Platform } from '../../registry/platform.ts';
import { registryName } from '../../registry/reference.ts';
import { RegistryAccess } from '../../registry/registry-access.ts';
import { SystemClock } from '../../runtime/node/clock.ts';
import { NodeHash } from '../../runtime/node/hash.ts';
import { jsonLogger } from '../../runtime/node/logger.ts';
import { SystemRandom } from '../../runtime/node/random.ts';
import { warn } from './output.ts';

/** Options of the commands that read or write images in registries. */
export interface RegistryOptions {
  readonly credentials?: string;
  readonly insecure?: boolean;
  readonly ca?: string;
  readonly config?: string;
}

const HINT = 'run `docker login` for it, or name a Docker config file with --credentials';

const TLS_HINTS: TlsHints = {
  certificate: '--ca names a file with the authority to trust',
  'plain-http': '--insecure asks over plain HTTP',
};

/** Adds these options to a command. */
export function addRegistryOptions(command: Command): Command {
  return command
    .option(
      '--credentials <file>',
      'Docker config file with the credentials (default: ~/.docker/config.json)',
    )
    .option('--insecure', 'ask the registries over plain HTTP')
    .option('--ca <file>', 'PEM file of authorities to trust, beside the usual ones')
    .option('--config <file>', "take `registries` and `credentials` of an agent's configuration");
}

/**
 * Runs the work with what opens these places, and closes the connections afterwards. Rejects as the
 * work does; what registries say comes with advice.
 */
export async function withPlaces<T>(
  options: RegistryOptions,
  texts: readonly string[],
  work: (components: PlaceComponents) => Promise<T>,
): Promise<T> {
  const [clock, random, hash] = [new SystemClock(), new SystemRandom(), new NodeHash()];
  const logger = jsonLogger({ level: 'warn' });
  const { names, ...files } = await accessOf(options, registriesIn(texts));
  const hints = { tls: TLS_HINTS, credentials: options.config === undefined ? HINT : undefined };
  const init = { ...files, variables: process.env, hints };
  const access = withNames(names, () => new RegistryAccess({ clock, random, hash, logger }, init));
  try {
    return await work({ clock, random, hash, client: () => access.client(), onWarning: warn });
  } catch (error) {
    throw withAdvice(error);
  } finally {
    await access.close();
  }
}

/** Reads the option `--platform`. Throws ConvertError. */
export function platformOf(text: string | undefined): Platform | undefined {
  if (text === undefined) return undefined;
  const [os = '', architecture = '', variant, ...more] = text.split('/');
  if (os !== '' && architecture !== '' && variant !== '' && more.length === 0) {
    return { os, architecture, ...(variant !== undefined && { variant }) };
  }
  const what = `--platform is ${JSON.stringify(text)}: it must be OS/ARCH or OS/ARCH/VARIANT`;
  throw new ConvertError(`${what}, for instance linux/arm64`, { code: 'argument' });
}

interface Access {
  readonly registries: readonly RegistryEntry[];
  readonly credentials: CredentialFiles;
  /** What the user calls the keys of files that no configuration names. */
  readonly names: ReadonlyMap<string, string>;
}

/** The registries of the configuration, and those that the command names. */
async function accessOf(
  { credentials: file, insecure, ca, config }: RegistryOptions,
  named: readonly string[],
): Promise<Access> {
  const flags = { ...(insecure && { insecure }), ...(ca !== undefined && { caFile: ca }) };
  const listed = config === undefined ? undefined : await configured(config);
  const entries = new Map<string, RegistryEntry>();
  const names = new Map<string, string>();
  for (const entry of listed?.registries ?? []) entries.set(registryName(entry.host), entry);
  for (const host of named) {
    const entry = entries.get(host) ?? { host, insecure: false, mirrors: [] };
    entries.set(host, { ...entry, ...flags });
    if (ca !== undefined) names.set(`registries[host=${entry.host}].caFile`, '--ca');
  }
  const { dockerConfigs = [], pullSecrets = [] } = listed?.credentials ?? {};
  const files = file === undefined ? [...dockerConfigs, ...usualFiles()] : [file];
  const name = file === undefined ? 'the file of `docker login`' : '--credentials';
  for (const i of files.keys()) {
    const isListed = file === undefined && i < dockerConfigs.length;
    if (!isListed) names.set(`credentials.dockerConfigs[${i}]`, name);
  }
  return {
    registries: [...entries.values()],
    credentials: { dockerConfigs: files, pullSecrets: file === undefined ? pullSecrets : [] },
    names,
  };
}

/** Runs `open`; an error of a file speaks of the flag, where one named the file. */
function withNames<T>(names: Access['names'], open: () => T): T {
  try {
    return open();
  } catch (error) {
    if (!(error instanceof AccessFileError)) throw error;
    const { detail, message } = error;
    const key = names.get(detail.key) ?? detail.key;
    const text = message.replace(detail.key, () => key);
    throw new AccessFileError(text, { ...detail, key }, { cause: error });
  }
}

/** Reads the configuration; only then is its schema loaded. */
async function configured(file: string) {
  const { loadConfig } = await import('../config/config.ts');
  return loadConfig({ file });
}

/** Where `docker login`, and `skopeo login` or `podman login`, leave credentials. */
function usualFiles(): readonly string[] {
  const { DOCKER_CONFIG, REGISTRY_AUTH_FILE, XDG_RUNTIME_DIR } = process.env;
  const files = [
    join(DOCKER_CONFIG ?? join(homedir(), '.docker'), 'config.json'),
    ...(REGISTRY_AUTH_FILE === undefined ? [] : [REGISTRY_AUTH_FILE]),
    ...(XDG_RUNTIME_DIR === undefined ? [] : [join(XDG_RUNTIME_DIR, 'containers/auth.json')]),
  ];
  return files.filter((path) => existsSync(path));
}

/** What to do about what a registry said, where its own words do not tell. */
function withAdvice(error: unknown): unknown {
  if (!(error instanceof RegistryError)) return error;
  const advice = adviceFor(error);
  if (advice === undefined) return error;
  // The words of TLS fill several lines.
  const text = error.message.trim().replaceAll(/\s*\n\s*/g, ' ');
  return new RegistryError(`${text}; ${advice}`, error.detail, { cause: error });
}

function adviceFor({ detail }: RegistryError): string | undefined {
  switch (detail.code) {
    case 'denied':
      return 'the user may not do that there: check the name, and the rights of the user';
    case 'not-found':
      return 'check the name and the tag; some registries say so of what the user may not see';
    case 'rate-limited':
      return 'try again later; what is copied is not copied again';
    case 'unavailable':
      if (detail.tls !== undefined) return undefined;
      return detail.status === undefined
        ? 'check the address; --insecure asks over plain HTTP, --ca trusts an authority'
        : 'try again later; what is copied is not copied again';
    default:
      return undefined;
  }
}
