import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { blobPath, prepareLayout } from '../../src/convert/oci-layout.ts';
import { digestHex, type Digest } from '../../src/image/digest.ts';
import { chainOf, LAYERS, type LayerName } from './debian-layers.ts';
import {
  ARCHIVES,
  closureOf,
  DEBIAN_CACHE,
  fetchClosure,
  type DebianPackage,
} from './debian-packages.ts';
import { packLayer, putGzipImage, type GzipLayer } from './gzip-image.ts';

const run = promisify(execFile);

/** Changes when layers are made in another way, so that those of the cache are not used. */
const RECIPE = 1;

/** Times of files are no later than this, in seconds since 1970. */
const LATEST_SECONDS = 1_700_000_000;

/** A layer, and the packages in it. */
export interface DebianLayer extends GzipLayer {
  readonly name: LayerName;
  readonly packageCount: number;
}

/** Images in an OCI layout, by tag. */
export interface DebianImages {
  readonly layout: string;
  readonly images: Readonly<Record<string, readonly DebianLayer[]>>;
}

/**
 * Puts images of real Debian packages into an OCI layout folder: tags, and the layers of each,
 * bottom first. Packages and layers come from the cache, or from the archive by apt. Prints what it
 * made. Needs no root.
 */
export async function makeDebianImages(
  layout: string,
  wanted: Readonly<Record<string, readonly LayerName[]>>,
): Promise<DebianImages> {
  await mkdir(join(DEBIAN_CACHE, 'layers'), { recursive: true });
  const work = await mkdtemp(join(DEBIAN_CACHE, 'work-'));
  try {
    const maker = new LayerMaker(work);
    const images: Record<string, readonly DebianLayer[]> = {};
    await prepareLayout(layout);
    for (const [tag, names] of Object.entries(wanted)) {
      const layers: DebianLayer[] = [];
      for (const name of names) layers.push(await maker.layer(name));
      images[tag] = layers;
      for (const { digest } of layers) {
        const path = blobPath(layout, digest);
        if (!existsSync(path)) await symlink(cachedBlob(digest), path);
      }
      await putGzipImage(layout, tag, layers);
    }
    if (maker.hasMade) {
      const { stdout } = await run('du', ['-sm', DEBIAN_CACHE]);
      process.stderr.write(`${DEBIAN_CACHE} has ${stdout.split('\t')[0]} MiB\n`);
    }
    return { layout, images };
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Makes each layer once. */
class LayerMaker {
  /** Whether a layer was not in the cache. */
  hasMade = false;
  readonly #work: string;
  readonly #closures = new Map<LayerName, readonly DebianPackage[]>();
  readonly #folders = new Map<LayerName, string>();

  /** `work`: an empty folder for unpacked layers. */
  constructor(work: string) {
    this.#work = work;
  }

  async layer(name: LayerName): Promise<DebianLayer> {
    const key = createHash('sha256')
      .update(JSON.stringify([RECIPE, name, await this.#ownPackages(name)]))
      .digest('hex');
    const facts = join(DEBIAN_CACHE, 'layers', `${key}.json`);
    if (existsSync(facts)) return JSON.parse(await readFile(facts, 'utf8')) as DebianLayer;
    this.hasMade = true;
    const startMs = performance.now();
    const folder = await this.#unpacked(name);
    const packageCount = (await this.#ownPackages(name)).length;
    const layer = { name, ...(await packFolder(folder, this.#work)), packageCount };
    await writeFile(`${facts}.${process.pid}`, JSON.stringify(layer));
    await rename(`${facts}.${process.pid}`, facts);
    const seconds = (performance.now() - startMs) / 1000;
    process.stderr.write(
      `made the layer ${name} of ${packageCount} packages in ${seconds.toFixed(0)} s: ` +
        `${mb(layer.tarBytes)}, ${mb(layer.sizeBytes)} with gzip\n`,
    );
    return layer;
  }

  /** Those that no layer below has. */
  async #ownPackages(name: LayerName): Promise<readonly DebianPackage[]> {
    const { on } = LAYERS[name];
    const below = on === undefined ? [] : await this.#closure(on);
    const had = new Set(below.map(({ fileName }) => fileName));
    return (await this.#closure(name)).filter(({ fileName }) => !had.has(fileName));
  }

  async #closure(name: LayerName): Promise<readonly DebianPackage[]> {
    const closure = this.#closures.get(name) ?? (await closureOf(packagesTo(name)));
    this.#closures.set(name, closure);
    return closure;
  }

  /** A folder with the files of the layer. */
  async #unpacked(name: LayerName): Promise<string> {
    const made = this.#folders.get(name);
    if (made !== undefined) return made;
    const { on, prepare } = LAYERS[name];
    const below: string[] = [];
    for (const each of on === undefined ? [] : chainOf(on)) below.push(await this.#unpacked(each));
    await fetchClosure(packagesTo(name));
    const folder = join(this.#work, name);
    await mkdir(folder);
    for (const { fileName } of await this.#ownPackages(name)) {
      await run('dpkg-deb', ['-x', join(ARCHIVES, fileName), folder]);
    }
    await prepare?.(folder, below);
    this.#folders.set(name, folder);
    return folder;
  }
}

/** The packages that are asked for up to a layer. */
function packagesTo(name: LayerName): readonly string[] {
  return chainOf(name).flatMap((each) => LAYERS[each].packages);
}

/** The blob of a layer in the cache. */
function cachedBlob(digest: Digest): string {
  return join(DEBIAN_CACHE, 'layers', digestHex(digest));
}

/** Makes a compressed tar of a folder, the same for the same files, and puts it into the cache. */
async function packFolder(folder: string, work: string): Promise<GzipLayer> {
  const form = ['--format=gnu', '--sort=name', '--numeric-owner', '--owner=0', '--group=0'];
  const times = ['--clamp-mtime', `--mtime=@${LATEST_SECONDS}`];
  const tar = spawn('tar', [...form, ...times, '-C', folder, '-cf', '-', '.'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise<number | null>((resolve) => tar.once('close', resolve));
  const part = join(work, 'layer.tar.gz');
  const layer = await packLayer(tar.stdout, part);
  if ((await ended) !== 0) throw new Error(`tar of ${folder} failed`);
  await rename(part, cachedBlob(layer.digest));
  return layer;
}

function mb(bytes: number): string {
  return `${(bytes / 1e6).toFixed(0)} MB`;
}
