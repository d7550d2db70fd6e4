import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import {
  AccelerationError,
  type AccelerationApi,
  type Belonging,
  type BlockImage,
  type Conversion,
  type ReadyVersion,
} from '../../acceleration/messages.ts';
import type { Collected } from '../../acceleration/belongings.ts';
import { ConversionError } from '../../acceleration/failures.ts';
import {
  AccelerationService,
  type AccelerationWork,
  type ConvertOptions,
} from '../../acceleration/service.ts';
import type { RegistryPlace } from '../../convert/places/registry-place.ts';
import type { Look } from '../../acceleration/states.ts';
import type { BlobOrigin } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import { RegistryError } from '../../registry/errors.ts';
import { hostPlatform } from '../../registry/platform.ts';
import { isTag, parseReference, registryName } from '../../registry/reference.ts';
import type { RegistryAccess } from '../../registry/registry-access.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { Disk, DiskLock } from '../../runtime/disk.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { Metrics } from '../../runtime/metrics.ts';
import { NodeDisk } from '../../runtime/node/disk.ts';
import type { Random } from '../../runtime/random.ts';
import { errorText } from '../../util/errors.ts';
import { makeFoldersSoon } from '../../runtime/node/folders.ts';
import type { Config } from '../config/config-schema.ts';
import { collect } from './collection.ts';
import { runConversion } from './conversion.ts';
import { closedAbove, JOB_PREFIX, JobFolder, type User } from './job-folder.ts';

/** Longest wait for a registry to tell a tag, retries included. */
const LOOK_MS_MAX = 30_000;

/** `nobody` of every Linux: what a conversion runs as where the agent is root. */
const NOBODY: User = { uid: 65_534, gid: 65_534 };

interface Components {
  readonly registries: RegistryAccess;
  /** That of the store. */
  readonly disk: Disk;
  readonly hash: Hash;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** What kept layers are signed with. */
  readonly host: { readonly peer: string };
  readonly engine: {
    /** The trees of this host, one for each stripe of a blob. */
    trees(): readonly { readonly digest: Digest; readonly children: readonly unknown[] }[];
  };
}

/** Accelerates images on a root, where the configuration says so. */
export interface Acceleration extends AccelerationApi {
  start(): Promise<void>;
  stop(): Promise<void>;
  /** Whether nobody is to be given this block image. */
  isRemoved(digest: Digest): boolean;
}

/** Undefined on hosts that accelerate nothing. */
export function makeAcceleration(config: Config, components: Components): Acceleration | undefined {
  const { enabled, concurrent, watchSeconds, keepSeconds } = config.acceleration;
  if (!enabled || config.role !== 'root') return undefined;
  const work = new Conversions(components, config, components.host.peer);
  const init = { concurrent, watchMs: watchSeconds * 1000, keepMs: keepSeconds * 1000 };
  const service = new AccelerationService({ ...components, work }, init);
  return {
    start: async () => {
      await work.start();
      await service.start();
    },
    stop: async () => {
      await service.stop();
      await work.stop();
    },
    set: async (image, type) => {
      checkSuffix(image, config);
      return service.set(image, type);
    },
    list: () => service.list(),
    kept: (repository) => service.kept(repository),
    isRemoved: (digest) => service.isRemoved(digest),
  };
}

/** Throws AccelerationError when a block image could not have its tag. */
function checkSuffix(image: string, { acceleration: { tagSuffix } }: Config): void {
  const { tag = '' } = parseReference(image);
  if (tag === '' || isTag(tag + tagSuffix)) return;
  const what = `with acceleration.tagSuffix ${JSON.stringify(tagSuffix)}, the tag of ${image}`;
  throw new AccelerationError(`${what} is longer than registries take`, { code: 'not-a-tag' });
}

function closedText(folder: string): string {
  const what = `conversions run as nobody, who may not pass through ${folder}`;
  return `${what}: let others pass (chmod o+x), or name another folder in acceleration.workDir`;
}

/** What is done at registries and by processes of their own. */
class Conversions implements AccelerationWork {
  readonly #parts: Components;
  readonly #config: Config;
  readonly #owner: string;
  #lock: DiskLock | undefined;

  constructor(components: Components, config: Config, owner: string) {
    this.#parts = components;
    this.#config = config;
    this.#owner = owner;
  }

  /** Never rejects: what an earlier run left is removed when that is possible. */
  async start(): Promise<void> {
    const { workDir } = this.#config.acceleration;
    try {
      await makeFoldersSoon(workDir);
      const closed = process.getuid?.() === 0 ? await closedAbove(workDir) : undefined;
      if (closed !== undefined) this.#parts.logger.warn({ folder: workDir }, closedText(closed));
      this.#lock = await new NodeDisk({ root: workDir }).lock('');
      for (const name of await readdir(workDir)) {
        if (!name.startsWith(JOB_PREFIX)) continue;
        await rm(join(workDir, name), { recursive: true, force: true });
      }
    } catch (error) {
      const fields = { folder: workDir, error: errorText(error) };
      this.#parts.logger.warn(fields, 'what earlier conversions left cannot be removed');
    }
  }

  async stop(): Promise<void> {
    await this.#lock?.release();
  }

  async look(image: string, ready: ReadyVersion | undefined, signal: AbortSignal): Promise<Look> {
    const { registry, repository, tag = '' } = parseReference(image);
    const origin = { registry, repository };
    const client = await this.#parts.registries.client();
    const options = { signal, timeoutMs: LOOK_MS_MAX };
    const sourceDigest = await client.manifestDigest(origin, tag, options);
    const made = ready?.sourceDigest === sourceDigest ? ready.images : [];
    try {
      // Registries drop manifests without a tag when they collect garbage.
      for (const { digest } of made) await client.manifestDigest(origin, digest, options);
      return { sourceDigest, isThere: true };
    } catch (error) {
      if (!(error instanceof RegistryError) || error.code !== 'not-found') throw error;
      return { sourceDigest, isThere: false };
    }
  }

  async convert(image: string, sourceDigest: Digest, options: ConvertOptions): Promise<Conversion> {
    const { workDir, compression, blockSize, tagSuffix, allPlatforms } = this.#config.acceleration;
    const { registry, repository, tag } = parseReference(image);
    const { os, architecture } = hostPlatform();
    const isRoot = process.getuid?.() === 0;
    const access = await this.#access({ registry, repository });
    const folder = await JobFolder.create(workDir, access, isRoot ? NOBODY : undefined);
    const name = `docker://${registry}/${repository}`;
    const order = {
      source: `${name}@${sourceDigest}`,
      target: tagSuffix === '' ? undefined : `${name}:${tag}${tagSuffix}`,
      ...{ compression, blockSize },
      platform: allPlatforms ? undefined : `${os}/${architecture}`,
      owner: this.#owner,
    };
    try {
      return await runConversion(order, folder, options);
    } catch (cause) {
      const closed = folder.user && (await closedAbove(workDir));
      if (closed === undefined || !errorText(cause).includes('EACCES')) throw cause;
      throw new ConversionError(closedText(closed), { code: 'file' }, { cause });
    } finally {
      await folder.remove();
    }
  }

  async remove(image: string, images: readonly BlockImage[], signal: AbortSignal): Promise<void> {
    const place = await this.#place(image);
    for (const { sourceDigest, digest } of images) {
      await place.removeReferrer({ subject: sourceDigest, digest }, signal);
    }
  }

  async collect(belongings: readonly Belonging[], signal: AbortSignal): Promise<Collected> {
    const repository = belongings[0]?.repository ?? '';
    const { registries, engine } = this.#parts;
    const [client, place] = [await registries.client(), await this.#place(repository)];
    const read = engine
      .trees()
      .flatMap(({ digest, children }) => (children.length > 0 ? [digest] : []));
    const around = { client, place, owner: this.#owner, readBlobs: new Set(read) };
    return collect(around, belongings, signal);
  }

  /** The code is loaded when it is first needed. */
  async #place(image: string): Promise<RegistryPlace> {
    const { clock, random, hash, registries } = this.#parts;
    const { openUntagged } = await import('../../convert/places/open-place.ts');
    const client = () => registries.client();
    return openUntagged(`docker://${image}`, { clock, random, hash, client });
  }

  async #access(origin: BlobOrigin) {
    const { registries, defaultRegistries } = this.#config;
    const known = registries.find(({ host }) => registryName(host) === origin.registry);
    const registry = known ?? { host: origin.registry, insecure: false, mirrors: [] };
    const credentials = await this.#parts.registries.credentialsFor(origin);
    return { registry, defaultRegistries, credentials };
  }
}
