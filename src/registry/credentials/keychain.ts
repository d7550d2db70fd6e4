import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { isAmong, type Credentials } from '../auth/auth.ts';
import { registryName } from '../reference.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { errorText } from '../../util/errors.ts';
import { invalid, unreadable, type NamedFile } from './access-files.ts';
import { CredentialHelpers } from './credential-helpers.ts';
import { findEntry, readDockerConfig, type DockerConfig } from './docker-config.ts';

/** Files that one directory of secrets may hold. */
const FILES_MAX = 64;

/** Paths whose faults are remembered as told. */
const TOLD_MAX = 1024;

/**
 * Names that Docker and Kubernetes give such files; others with these ends come from projected
 * volumes.
 */
const FILE_NAME = /(\.json|\.dockerconfigjson|\.dockercfg)$/;

/** How Docker Hub is called where credentials are kept. */
const DOCKER_HUB = 'docker.io';
const DOCKER_HUB_SERVER = 'https://index.docker.io/v1/';

/**
 * Where credentials are kept: Docker config files, and folders or files of Kubernetes image pull
 * secrets.
 */
export interface CredentialFiles {
  readonly dockerConfigs: readonly string[];
  readonly pullSecrets: readonly string[];
}

interface Source extends NamedFile {
  readonly runsHelpers: boolean;
}

/**
 * The credentials in Docker config files and in Kubernetes image pull secrets. For each repository
 * those of the first source that knows some are tried, and when the registry refuses them those of
 * the next one, as the kubelet does: Docker's files before pull secrets, each in the order of the
 * configuration; within a file, the helper before the most particular entry that is written there.
 *
 * Files are read again each time that a registry asks, so a secret that the kubelet has replaced
 * counts at once. A damaged file is logged, and its last sound content holds; a removed file holds
 * no more.
 */
export class Keychain {
  readonly #logger: Logger;
  readonly #helpers: CredentialHelpers;
  readonly #sources: readonly Source[];
  /** What each file said when it was last in order. */
  #good = new Map<string, DockerConfig>();
  /** What was told of each path, so that it is told once. */
  readonly #told = new BoundedMap<string, string>({ entriesMax: TOLD_MAX });

  /** Reads the files. Throws AccessFileError. */
  constructor(
    components: { readonly clock: Clock; readonly logger: Logger },
    init: CredentialFiles,
  ) {
    this.#logger = components.logger;
    this.#helpers = new CredentialHelpers(components);
    this.#sources = [
      ...sourcesOf('credentials.dockerConfigs', init.dockerConfigs, true),
      ...sourcesOf('credentials.pullSecrets', init.pullSecrets, false),
    ];
    for (const file of this.#sources.flatMap(filesOf)) {
      this.#good.set(file.path, readDockerConfig(file));
    }
  }

  /** The first that are not among the refused ones. */
  async get(
    registry: string,
    repository: string,
    refused: readonly Credentials[],
  ): Promise<Credentials | undefined> {
    const name = registryName(registry);
    for (const { config, runsHelpers } of this.#read()) {
      const helper = findEntry(config.helpers, name, repository) ?? config.store;
      if (runsHelpers && helper !== undefined) {
        const server = name === DOCKER_HUB ? DOCKER_HUB_SERVER : name;
        const found = await this.#helpers.get(helper, server);
        if (found !== undefined && !isAmong(found, refused)) return found;
      }
      const found = findEntry(config.credentials, name, repository);
      if (found !== undefined && !isAmong(found, refused)) return found;
    }
    return undefined;
  }

  /** Kills helpers that run. */
  close(): void {
    this.#helpers.stop();
  }

  #read(): readonly { readonly config: DockerConfig; readonly runsHelpers: boolean }[] {
    const good = new Map<string, DockerConfig>();
    const found = this.#sources.flatMap((source) => {
      const files = this.#orTell(source.path, () => filesOf(source)) ?? [];
      return files.flatMap((file) => {
        const before = this.#good.get(file.path);
        const config = this.#orTell(file.path, () => readDockerConfig(file)) ?? before;
        if (config === undefined) return [];
        good.set(file.path, config);
        return [{ config, runsHelpers: source.runsHelpers }];
      });
    });
    this.#good = good;
    return found;
  }

  #orTell<T>(path: string, read: () => T): T | undefined {
    try {
      const result = read();
      this.#told.delete(path);
      return result;
    } catch (error) {
      const text = errorText(error);
      if (this.#told.get(path) !== text) {
        this.#told.set(path, text);
        this.#logger.warn({ error: text }, 'credentials could not be read again');
      }
      return undefined;
    }
  }
}

function sourcesOf(name: string, paths: readonly string[], runsHelpers: boolean): Source[] {
  return paths.map((path, i) => ({ key: `${name}[${i}]`, path, runsHelpers }));
}

/** The file itself, or those in the directory and in the directories in it, by name. */
function filesOf(source: NamedFile): readonly NamedFile[] {
  const { key, path } = source;
  try {
    if (!statSync(path).isDirectory()) return [{ key, path }];
    const files = namesIn(path).flatMap((name) => {
      const inner = join(path, name);
      const info = statSync(inner, { throwIfNoEntry: false });
      if (info?.isDirectory() !== true) return info === undefined ? [] : [inner];
      return namesIn(inner).map((each) => join(inner, each));
    });
    const wanted = files.filter((file) => FILE_NAME.test(file));
    if (wanted.length <= FILES_MAX) return wanted.map((file) => ({ key, path: file }));
    throw invalid(source, `it holds ${wanted.length} files, and at most ${FILES_MAX} are read`);
  } catch (error) {
    throw error instanceof Error && 'syscall' in error ? unreadable(source, error) : error;
  }
}

/** Without the kubelet's own: `..data` and the folders that it points to. */
function namesIn(folder: string): readonly string[] {
  return readdirSync(folder)
    .filter((name) => !name.startsWith('..'))
    .sort();
}
