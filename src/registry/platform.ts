import { parseDigest, type Digest } from '../image/digest.ts';
import { INDEX_MEDIA_TYPES } from '../image/manifest.ts';
import { errorText } from '../util/errors.ts';
import { protocolError, RegistryError } from './errors.ts';

/** What an image is made to run on, in the words of the OCI image index. */
export interface Platform {
  readonly os: string;
  readonly architecture: string;
  /** Such as `v7` of arm; any when not given. */
  readonly variant?: string;
}

/** Node's names of architectures where the OCI image specification (Go) has others. */
const ARCHITECTURES: Readonly<Record<string, string>> = {
  x64: 'amd64',
  ia32: '386',
  ppc64: 'ppc64le',
};

/** What images must be made for to run on this host: Linux always. */
export function hostPlatform(): Platform {
  return { os: 'linux', architecture: ARCHITECTURES[process.arch] ?? process.arch };
}

/** A word of a platform that may stand in a text for people. */
const WORD = /^[\w.-]{1,64}$/;

/**
 * The platform that an entry of an index, or a config, names. What is no word becomes `unknown`:
 * it may be of any type, and anything for a terminal.
 */
export function platformIn(value: unknown): Platform {
  const { os = 'linux', architecture, variant } = Object(value) as Record<string, unknown>;
  const word = (found: unknown): string =>
    typeof found === 'string' && WORD.test(found) ? found : 'unknown';
  const hasVariant = variant !== undefined && variant !== '';
  return {
    os: word(os),
    architecture: word(architecture),
    ...(hasVariant && { variant: word(variant) }),
  };
}

/** Entries of an index that are looked at. */
const ENTRIES_MAX = 4096;

/**
 * Whether a manifest is a list of others: by its media type, or where a server names none, by what
 * is in it.
 */
export function isIndex(manifest: {
  readonly mediaType: string;
  readonly bytes: Uint8Array;
}): boolean {
  if (INDEX_MEDIA_TYPES.some((type) => type === manifest.mediaType)) return true;
  if (manifest.mediaType.includes('.manifest.')) return false;
  try {
    return Array.isArray(readJson(manifest.bytes)['manifests']);
  } catch {
    return false;
  }
}

/**
 * The digest of the first manifest in an index that fits the platform. An entry without a platform
 * fits when there is no other. Throws RegistryError (`no-platform`, or `protocol` when the index is
 * no sound one).
 */
export function selectPlatform(index: Uint8Array, wanted: Platform, reference: string): Digest {
  const entries = readEntries(index, reference);
  const chosen =
    entries.find(({ platform }) => fits(platform, wanted)) ??
    (entries.length === 1 && entries[0]?.platform === undefined ? entries[0] : undefined);
  if (chosen !== undefined) return chosen.digest;
  const named = entries.map(({ platform }) =>
    platform === undefined ? '?' : platformName(platform),
  );
  const found = named.slice(0, 16).join(', ').slice(0, 400);
  throw new RegistryError(
    `${reference} has no image for ${platformName(wanted)}; it has: ${found}`,
    {
      code: 'no-platform',
    },
  );
}

interface Entry {
  readonly digest: Digest;
  readonly platform: Platform | undefined;
}

function readEntries(index: Uint8Array, reference: string): readonly Entry[] {
  let list: unknown;
  try {
    list = readJson(index)['manifests'];
  } catch (cause) {
    const what = `the index of ${reference} is not JSON: ${errorText(cause)}`;
    throw protocolError('bad-json', what, cause);
  }
  if (!Array.isArray(list) || list.length > ENTRIES_MAX) {
    const what = `the index of ${reference} must list its manifests, at most ${ENTRIES_MAX}`;
    throw protocolError('bad-json', what);
  }
  return list.flatMap((item: unknown) => {
    const { digest, platform } = Object(item) as Record<string, unknown>;
    const parsed = typeof digest === 'string' ? parseDigest(digest) : undefined;
    return parsed === undefined ? [] : [{ digest: parsed, platform: readPlatform(platform) }];
  });
}

function readPlatform(value: unknown): Platform | undefined {
  const { os, architecture, variant } = Object(value) as Record<string, unknown>;
  if (typeof os !== 'string' || typeof architecture !== 'string') return undefined;
  return { os, architecture, ...(typeof variant === 'string' && { variant }) };
}

function fits(offered: Platform | undefined, wanted: Platform): boolean {
  return (
    offered?.os === wanted.os &&
    offered.architecture === wanted.architecture &&
    (wanted.variant === undefined || offered.variant === wanted.variant)
  );
}

/** OS, architecture and variant, as `linux/arm64/v8`. */
export function platformName({ os, architecture, variant }: Platform): string {
  return [os, architecture, variant].filter(Boolean).join('/');
}

function readJson(bytes: Uint8Array): Record<string, unknown> {
  const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  return Object(JSON.parse(text)) as Record<string, unknown>;
}
