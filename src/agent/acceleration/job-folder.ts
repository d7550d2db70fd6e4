import { chmod, chown, copyFile, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { failing } from '../../convert/files.ts';
import type { Credentials } from '../../registry/auth/auth.ts';
import type { RegistryEntry } from '../../registry/credentials/registry-files.ts';
import { registryName } from '../../registry/reference.ts';
import { makeFoldersSoon } from '../../runtime/node/folders.ts';

/** A user and a group that a process runs as. */
export interface User {
  readonly uid: number;
  readonly gid: number;
}

/** What the process may know of registries: one of them, and the credentials for one repository. */
export interface JobAccess {
  readonly registry: RegistryEntry;
  readonly defaultRegistries: boolean;
  /** The best first. */
  readonly credentials: readonly Credentials[];
}

/** Names of the folders begin so. */
export const JOB_PREFIX = 'job-';

/** Files that the entry of a registry names. */
const FILES = ['caFile', 'certFile', 'clientKeyFile'] as const;

/** A folder that others may pass through and not list. */
const PASSABLE = 0o711;

/**
 * The folder of one conversion: for its temporary files, with a configuration that holds what it
 * may know and no more. Only the user of the conversion can look into it.
 */
export class JobFolder {
  readonly path: string;
  readonly configFile: string;
  /** Whom it belongs to; undefined: the user of this process. */
  readonly user: User | undefined;

  private constructor(path: string, user: User | undefined) {
    this.path = path;
    this.configFile = join(path, 'agent.yaml');
    this.user = user;
  }

  /** Throws ConvertError. */
  static async create(
    parent: string,
    access: JobAccess,
    user: User | undefined,
  ): Promise<JobFolder> {
    await failing(parent, 'make', () => makeFoldersSoon(parent));
    if (user !== undefined) await failing(parent, 'change', () => chmod(parent, PASSABLE));
    const path = await failing(parent, 'write to', () => mkdtemp(join(parent, JOB_PREFIX)));
    const folder = new JobFolder(path, await given(path, user));
    try {
      await failing(path, 'write to', () => folder.#fill(access));
    } catch (error) {
      await folder.remove();
      throw error;
    }
    return folder;
  }

  async remove(): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
  }

  async #fill({ registry, defaultRegistries, credentials }: JobAccess): Promise<void> {
    const { host, insecure, proxy, storage, opaqueStorage } = registry;
    const files: Record<string, string> = {};
    for (const name of FILES) {
      const from = registry[name];
      if (from === undefined) continue;
      const to = join(this.path, name);
      await copyFile(from, to);
      files[name] = await this.#own(to);
    }
    const dockerConfigs: string[] = [];
    for (const [i, each] of credentials.entries()) {
      const auths = { [registryName(host)]: authOf(each) };
      dockerConfigs.push(await this.#write(`credentials-${i}.json`, { auths }));
    }
    const entry = { host, insecure, ...files, proxy, storage, opaqueStorage };
    // JSON is YAML too.
    await this.#write('agent.yaml', {
      role: 'root',
      registries: [entry],
      defaultRegistries,
      credentials: { dockerConfigs },
    });
  }

  async #write(name: string, content: object): Promise<string> {
    const path = join(this.path, name);
    await writeFile(path, JSON.stringify(content), { mode: 0o600 });
    return this.#own(path);
  }

  async #own(path: string): Promise<string> {
    await chmod(path, 0o600);
    if (this.user !== undefined) await chown(path, this.user.uid, this.user.gid);
    return path;
  }
}

/**
 * The folder above this one that other users may not pass through, by its mode; undefined when
 * there is none. What ACLs allow besides is not looked at.
 */
export async function closedAbove(path: string): Promise<string | undefined> {
  for (let folder = dirname(path); ; folder = dirname(folder)) {
    const found = await stat(folder).catch(() => undefined);
    if (found !== undefined && (found.mode & 0o001) === 0) return folder;
    if (folder === dirname(folder)) return undefined;
  }
}

/** Gives the folder to the user, where this process may: not without that capability. */
async function given(path: string, user: User | undefined): Promise<User | undefined> {
  if (user === undefined) return undefined;
  try {
    await chown(path, user.uid, user.gid);
    return user;
  } catch {
    return undefined;
  }
}

/** As Docker's configuration has it. */
function authOf(credentials: Credentials): object {
  if ('identityToken' in credentials) return { identitytoken: credentials.identityToken };
  if ('registryToken' in credentials) return { registrytoken: credentials.registryToken };
  const { username, password } = credentials;
  return { username, password };
}
