import { execFile, execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Large enough for what apt prints of the largest closure. */
const OUTPUT_BYTES_MAX = 2 ** 24;

/** A package, as a file of the cache. */
export interface DebianPackage {
  /** Has the version. */
  readonly fileName: string;
  readonly sizeBytes: number;
}

/** Where packages and what is made of them stay from one run to the next. */
export const DEBIAN_CACHE = join(
  process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'),
  'xylem-test',
);

/** The folder of the package files. */
export const ARCHIVES = join(DEBIAN_CACHE, 'archives');

/** Options that let apt choose and fetch for a system without packages; it changes none. */
function aptOptions(): readonly string[] {
  mkdirSync(join(ARCHIVES, 'partial'), { recursive: true });
  const status = join(DEBIAN_CACHE, 'status');
  writeFileSync(status, '', { flag: 'a' });
  const settings = {
    'Dir::State::status': status,
    'Dir::Cache': DEBIAN_CACHE,
    'Debug::NoLocking': '1',
    'APT::Sandbox::User': 'root',
    'APT::Install-Recommends': '0',
    'Acquire::Retries': '1',
    'Acquire::http::Timeout': '15',
  };
  const options = Object.entries(settings).map(([key, value]) => `-o${key}=${value}`);
  return ['-qq', ...options];
}

/** These packages and all that they depend on, sorted by name. Rejects when apt knows no way. */
export async function closureOf(names: readonly string[]): Promise<readonly DebianPackage[]> {
  // apt names only files that the folder of its cache does not have.
  const nowhere = `-oDir::Cache::archives=${join(DEBIAN_CACHE, 'none')}`;
  const args = [...aptOptions(), nowhere, '--print-uris', 'install', ...names];
  const { stdout } = await run('apt-get', args, { maxBuffer: OUTPUT_BYTES_MAX });
  return [...stdout.matchAll(/^'[^']+' (\S+) ([0-9]+)/gm)]
    .map(([, fileName = '', size]) => ({ fileName, sizeBytes: Number(size) }))
    .sort((a, b) => (a.fileName < b.fileName ? -1 : 1));
}

/** Has apt bring these packages and all that they depend on into the cache. */
export async function fetchClosure(names: readonly string[]): Promise<void> {
  await run('flock', fetchArgs(names), { maxBuffer: OUTPUT_BYTES_MAX });
}

/** Arguments of flock(1): one process at a time fetches. */
function fetchArgs(names: readonly string[]): readonly string[] {
  const fetch = ['--yes', '--download-only', 'install', ...names];
  return [join(DEBIAN_CACHE, 'lock'), 'apt-get', ...aptOptions(), ...fetch];
}

/** Why apt cannot fetch packages here; undefined when it can. */
export function debianFault(): string | undefined {
  try {
    execFileSync('flock', fetchArgs(['base-passwd']), { stdio: 'pipe' });
    return undefined;
  } catch {
    return 'apt cannot fetch packages (no apt-get, no package lists, or no network)';
  }
}
