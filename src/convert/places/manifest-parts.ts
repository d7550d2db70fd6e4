import { BLOB_SIZE_BYTES_MAX } from '../../image/block.ts';
import { parseDigest, type Digest } from '../../image/digest.ts';
import { MANIFEST_MEDIA_TYPES, INDEX_MEDIA_TYPES } from '../../image/manifest.ts';
import { errorText } from '../../util/errors.ts';
import { ConvertError } from '../errors.ts';

/** A manifest or an index, its bytes untouched. */
export interface StoredManifest {
  readonly mediaType: string;
  readonly bytes: Uint8Array;
  readonly digest: Digest;
}

/** What a manifest or an index names. */
export interface NamedContent {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly size: number;
  readonly artifactType?: string;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** The parts of a manifest that a copy needs. */
export interface ManifestParts {
  /** Of an index. */
  readonly manifests: readonly NamedContent[];
  readonly config: NamedContent | undefined;
  /** Of any other manifest: config and layers, those left out that no registry may keep. */
  readonly blobs: readonly NamedContent[];
  /** The manifest that this one refers to. */
  readonly subject: Digest | undefined;
  readonly artifactType: string | undefined;
  readonly annotations: Readonly<Record<string, string>>;
}

/** Entries of one list; real ones have some hundred at most. */
const ENTRIES_MAX = 4096;

/** Layers that are fetched from the URLs in their descriptors, and from nowhere else. */
const FOREIGN = /nondistributable|rootfs\.foreign/;

/** Reads a manifest or an index. Throws ConvertError (`manifest`). */
export function readParts({ bytes, digest }: Omit<StoredManifest, 'mediaType'>): ManifestParts {
  const root = readObject(bytes, digest);
  if (root['schemaVersion'] === 1) {
    throw bad(
      digest,
      'it is of Docker schema 1, which registries no longer take; pull and push it',
    );
  }
  const { config, subject } = root;
  const listed = (name: string): readonly NamedContent[] => {
    const list = root[name] ?? [];
    if (!Array.isArray(list) || list.length > ENTRIES_MAX) {
      throw bad(digest, `${name} is no list of at most ${ENTRIES_MAX} entries`);
    }
    return list.filter((item) => !isForeign(item)).map((item) => readEntry(item, digest, name));
  };
  const configs = config === undefined ? [] : [readEntry(config, digest, 'config')];
  return {
    manifests: listed('manifests'),
    config: configs[0],
    blobs: [...configs, ...listed('layers'), ...listed('blobs')],
    subject: subject === undefined ? undefined : readEntry(subject, digest, 'subject').digest,
    artifactType: textOr(root['artifactType'], configs[0]?.mediaType),
    annotations: textsIn(root['annotations']),
  };
}

/** The media type that a manifest names itself, or the one that its fields tell. */
export function mediaTypeOf(bytes: Uint8Array, digest: Digest): string {
  const root = readObject(bytes, digest);
  const [manifest] = MANIFEST_MEDIA_TYPES;
  const [index] = INDEX_MEDIA_TYPES;
  return textOr(root['mediaType'], undefined) ?? ('manifests' in root ? index : manifest);
}

function readObject(bytes: Uint8Array, digest: Digest): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
      return value as Record<string, unknown>;
    }
  } catch (cause) {
    throw bad(digest, `it is not JSON: ${errorText(cause)}`, cause);
  }
  throw bad(digest, 'it is no JSON object');
}

function readEntry(value: unknown, manifest: Digest, field: string): NamedContent {
  const entry = Object(value) as Record<string, unknown>;
  const { mediaType, digest, size, artifactType, annotations } = entry;
  const parsed = typeof digest === 'string' ? parseDigest(digest) : undefined;
  if (parsed === undefined) {
    const found = JSON.stringify(digest)?.slice(0, 100);
    throw bad(manifest, `${field} names ${found}, which is no sha256 digest`);
  }
  if (!Number.isSafeInteger(size) || Number(size) < 0 || Number(size) > BLOB_SIZE_BYTES_MAX) {
    throw bad(manifest, `${field} gives ${parsed} no size of at most ${BLOB_SIZE_BYTES_MAX} bytes`);
  }
  return {
    mediaType: textOr(mediaType, '') ?? '',
    digest: parsed,
    size: Number(size),
    ...(typeof artifactType === 'string' && { artifactType }),
    annotations: textsIn(annotations),
  };
}

function isForeign(value: unknown): boolean {
  const { mediaType, urls } = Object(value) as Record<string, unknown>;
  return Array.isArray(urls) && typeof mediaType === 'string' && FOREIGN.test(mediaType);
}

function textOr(value: unknown, otherwise: string | undefined): string | undefined {
  return typeof value === 'string' && value !== '' ? value : otherwise;
}

function textsIn(value: unknown): Readonly<Record<string, string>> {
  const entries = Object.entries(Object(value) as Record<string, unknown>);
  return Object.fromEntries(
    entries.filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
  );
}

function bad(digest: Digest, why: string, cause?: unknown): ConvertError {
  return new ConvertError(
    `manifest ${digest} cannot be used: ${why}`,
    { code: 'manifest', digest },
    { cause },
  );
}
