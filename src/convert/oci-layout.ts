import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { digestHex, parseDigest, type Digest } from '../image/digest.ts';
import {
  INDEX_MEDIA_TYPES,
  MANIFEST_MEDIA_TYPES,
  MANIFEST_SIZE_BYTES_MAX,
  parseManifest,
  type Manifest,
} from '../image/manifest.ts';
import { ConvertError } from './errors.ts';
import { failing, fileError } from './files.ts';

/** Annotation of an entry of `index.json`: its tag. */
export const TAG_ANNOTATION = 'org.opencontainers.image.ref.name';

/** How the tags of kept layers begin; they are no images for people. */
export const LAYER_TAG_PREFIX = 'xylem-layer-';

/** Tags that registries accept (OCI distribution spec, "Pulling manifests"). */
const TAG = /^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$/;

/** A manifest or an index in the `index.json` of a layout. */
export interface IndexEntry {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** A place in an OCI image layout: `oci:DIR:tag`. */
export interface LayoutTarget {
  readonly directory: string;
  readonly tag: string;
}

/** Reads `oci:DIR:tag`. Throws ConvertError. */
export function parseLayoutTarget(text: string): LayoutTarget {
  const colon = text.lastIndexOf(':');
  const directory = text.slice('oci:'.length, colon);
  const tag = text.slice(colon + 1);
  if (!text.startsWith('oci:') || directory === '' || !TAG.test(tag)) {
    throw new ConvertError(
      `${JSON.stringify(text)} is no place for an image: it must be oci:DIR:tag, ` +
        'for instance oci:/tmp/images:app-1.4',
      { code: 'argument' },
    );
  }
  return { directory, tag };
}

/** Path of a blob in the layout. */
export function blobPath(directory: string, digest: Digest): string {
  return join(directory, 'blobs', 'sha256', digestHex(digest));
}

/** Creates the layout if it does not exist. Throws ConvertError. */
export async function prepareLayout(directory: string): Promise<void> {
  await makeFolder(join(directory, 'blobs', 'sha256'));
  const marker = join(directory, 'oci-layout');
  await failing(marker, 'write', () => writeFile(marker, layoutMarker()));
}

/**
 * Makes the folder and those above it. `recursive` of mkdir() would say that there is no such
 * folder where the file system is read-only.
 */
async function makeFolder(path: string): Promise<void> {
  const above = dirname(path);
  if (above !== path) await makeFolder(above);
  try {
    await mkdir(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw fileError(path, 'create', error);
  }
}

/** Writes a small blob (a config or a manifest) to the layout. Throws ConvertError. */
export async function putBlob(directory: string, digest: Digest, bytes: Uint8Array): Promise<void> {
  await replaceFile(blobPath(directory, digest), bytes);
}

/** Points the tag at a manifest of the layout; other tags stay. Throws ConvertError. */
export async function tagManifest(
  target: LayoutTarget,
  manifest: { digest: Digest; size: number; mediaType?: string },
): Promise<void> {
  const path = join(target.directory, 'index.json');
  const others = (await readIndex(path)).filter(
    (entry) => entry.annotations?.[TAG_ANNOTATION] !== target.tag,
  );
  const entry: IndexEntry = {
    mediaType: MANIFEST_MEDIA_TYPES[0],
    ...manifest,
    annotations: { [TAG_ANNOTATION]: target.tag },
  };
  await replaceFile(path, layoutIndex([...others, entry]));
}

/** The file `oci-layout`, which marks a layout. */
export function layoutMarker(): Uint8Array {
  return new TextEncoder().encode(JSON.stringify({ imageLayoutVersion: '1.0.0' }));
}

/** The file `index.json` with these entries. */
export function layoutIndex(manifests: readonly IndexEntry[]): Uint8Array {
  const index = { schemaVersion: 2, mediaType: INDEX_MEDIA_TYPES[0], manifests };
  return new TextEncoder().encode(JSON.stringify(index));
}

/**
 * Reads the manifest of a tag of the layout. Throws ConvertError, or ManifestError when it is no
 * manifest of an image.
 */
export async function readTag(target: LayoutTarget): Promise<Manifest> {
  const { directory, tag } = target;
  const path = join(directory, 'index.json');
  const entry = (await readIndex(path)).find(
    ({ annotations }) => annotations?.[TAG_ANNOTATION] === tag,
  );
  const digest = entry === undefined ? undefined : parseDigest(entry.digest);
  if (digest === undefined) {
    throw new ConvertError(`${path} has no image with the tag ${tag}; check the tag`, {
      code: 'layout',
      path,
    });
  }
  if (INDEX_MEDIA_TYPES.some((type) => type === entry?.mediaType)) {
    const what = `${tag} of ${directory} is an index of several images`;
    const advice = 'copy the one for your platform with `xylem copy --platform`';
    throw new ConvertError(`${what}; ${advice}`, { code: 'layout', path });
  }
  const manifest = blobPath(directory, digest);
  return parseManifest(await failing(manifest, 'read', () => readFile(manifest)));
}

async function readIndex(path: string): Promise<readonly IndexEntry[]> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    return failing(path, 'read', () => Promise.reject(error as Error));
  }
  return readEntries(bytes, path);
}

/** The entries of an `index.json`; `path` is its name in errors. Throws ConvertError. */
export function readEntries(bytes: Uint8Array, path: string): readonly IndexEntry[] {
  try {
    if (bytes.length > MANIFEST_SIZE_BYTES_MAX)
      throw new Error(`it is larger than ${MANIFEST_SIZE_BYTES_MAX} bytes`);
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    const { manifests } = JSON.parse(text) as { manifests: IndexEntry[] };
    if (!Array.isArray(manifests)) throw new Error('it lists no manifests');
    return manifests;
  } catch (cause) {
    const what = `${path} is not the index of an OCI layout; name another place`;
    throw new ConvertError(what, { code: 'layout', path }, { cause });
  }
}

/** Replaces the file atomically: a crash leaves the old content or the new. */
async function replaceFile(path: string, bytes: Uint8Array): Promise<void> {
  const part = `${path}.part-${process.pid}`;
  await failing(path, 'write', async () => {
    await writeFile(part, bytes);
    await rename(part, path);
  });
}
