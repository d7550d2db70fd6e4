import { parseDigest, type Digest } from '../image/digest.ts';
import { readObject } from '../image/manifest-form.ts';
import { INDEX_MEDIA_TYPES } from '../image/manifest.ts';
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
  const architecture = ARCHITECTURES[process.arch] ?? process.arch;
  const { arm_version: version } = process.config.variables as { readonly arm_version?: unknown };
  const hasVariant = architecture === 'arm' && typeof version === 'string';
  return { os: 'linux', architecture, ...(hasVariant && { variant: `v${version}` }) };
}

/** Other names of architectures, as containerd reads them, and the variants that they mean. */
const SPELLINGS: Readonly<Record<string, readonly [string, string?]>> = {
  i386: ['386'],
  i486: ['386'],
  i586: ['386'],
  i686: ['386'],
  x86: ['386'],
  x86_64: ['amd64'],
  'x86-64': ['amd64'],
  aarch64: ['arm64'],
  armhf: ['arm', 'v7'],
  armel: ['arm', 'v6'],
  armv7l: ['arm', 'v7'],
  armv6l: ['arm', 'v6'],
};

/** The variant that is meant where none is named, or that goes without saying. */
const USUAL_VARIANT: Readonly<Record<string, string>> = { amd64: 'v1', arm: 'v7', arm64: 'v8' };

/**
 * A platform in the words that images are compared by, as containerd normalizes them. The usual
 * variant of an architecture is left out.
 */
function normalized({ os, architecture, variant = '' }: Platform): Platform {
  const name = architecture.toLowerCase();
  const [spelt, meant] = SPELLINGS[name] ?? [name];
  const number = /^v?([0-9]+(?:\.[0-9]+)?)$/.exec(variant.toLowerCase())?.[1];
  const named = meant ?? (number === undefined ? variant.toLowerCase() : `v${number}`);
  const isUsual = named === '' || named === USUAL_VARIANT[spelt];
  return { os: os.toLowerCase(), architecture: spelt, ...(!isUsual && { variant: named }) };
}

/** Whether what is made for one platform is meant for the other; no wanted variant: any. */
export function fitsPlatform(made: Platform, wanted: Platform): boolean {
  const [a, b] = [normalized(made), normalized(wanted)];
  return (
    a.os === b.os &&
    a.architecture === b.architecture &&
    (wanted.variant === undefined || a.variant === b.variant)
  );
}

/**
 * What runs on the platform, the best first, as containerd chooses: processors of 64 bits run what
 * is made for those of 32, and newer ones what is made for older ones.
 */
function runnable(wanted: Platform): readonly Platform[] {
  const { os, architecture, variant } = normalized(wanted);
  const arm = (from: number): readonly Platform[] =>
    Array.from({ length: from - 4 }, (_, i) => ({
      os,
      architecture: 'arm',
      variant: `v${from - i}`,
    }));
  switch (architecture) {
    case 'amd64':
      return [wanted, { os, architecture: '386' }];
    case 'arm64':
      return [wanted, ...arm(8)];
    case 'arm':
      return arm(Number(/[5-8]/.exec(variant ?? 'v7')?.[0] ?? 7));
    default:
      return [wanted];
  }
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
 * Whether a manifest is a list of others: by what it says itself, else by its media type, or where
 * a server names none, by what is in it.
 */
export function isIndex(manifest: {
  readonly mediaType: string;
  readonly bytes: Uint8Array;
}): boolean {
  const json = readObject(manifest.bytes);
  for (const type of [json?.['mediaType'], manifest.mediaType]) {
    if (INDEX_MEDIA_TYPES.some((each) => each === type)) return true;
    if (typeof type === 'string' && type.includes('.manifest.')) return false;
  }
  return Array.isArray(json?.['manifests']);
}

/** The manifests of an index that may be the one for a platform. */
export interface Candidates {
  /** The best of those that say so. */
  readonly best: Digest | undefined;
  /** Those that say nothing of their platform. */
  readonly unnamed: readonly Digest[];
  /** Of all entries. */
  readonly count: number;
}

/**
 * The manifests of an index that may be the one for a platform. `isHost`: what runs on it will do.
 * Throws RegistryError (`protocol`) when the index is no sound one.
 */
export function candidatesFor(
  index: Uint8Array,
  wanted: Platform,
  { reference, isHost = false }: { readonly reference: string; readonly isHost?: boolean },
): Candidates {
  const entries = readEntries(index, reference);
  const fitting = (platform: Platform, isExact: boolean): Entry | undefined =>
    entries.find(
      (entry) =>
        entry.platform !== undefined &&
        fitsPlatform(entry.platform, platform) &&
        (!isExact || normalized(entry.platform).variant === normalized(platform).variant),
    );
  const best = (isHost ? runnable(wanted) : [wanted])
    .map((platform) => fitting(platform, true))
    .find((entry) => entry !== undefined);
  const unnamed = entries.filter(({ platform }) => platform === undefined);
  return {
    best: (best ?? fitting(wanted, false))?.digest,
    unnamed: unnamed.map(({ digest }) => digest),
    count: entries.length,
  };
}

/**
 * The digest of the manifest in an index that fits the platform best; one without a platform fits
 * when there is no other. Throws RegistryError (`no-platform`, or `protocol` when the index is no
 * sound one).
 */
export function selectPlatform(index: Uint8Array, wanted: Platform, reference: string): Digest {
  const { best, unnamed, count } = candidatesFor(index, wanted, { reference });
  const chosen = best ?? (count === 1 ? unnamed[0] : undefined);
  if (chosen !== undefined) return chosen;
  throw noPlatformError(index, wanted, reference);
}

/** For an index without a manifest for the platform: it says which there are. */
export function noPlatformError(
  index: Uint8Array,
  wanted: Platform,
  reference: string,
): RegistryError {
  const named = readEntries(index, reference).map(({ platform }) =>
    platform === undefined ? '?' : platformName(platformIn(platform)),
  );
  const found = named.slice(0, 16).join(', ').slice(0, 400) || 'none at all';
  const what = `${reference} has no image for ${platformName(wanted)}; it has: ${found}`;
  return new RegistryError(what, { code: 'no-platform' });
}

interface Entry {
  readonly digest: Digest;
  readonly platform: Platform | undefined;
}

function readEntries(index: Uint8Array, reference: string): readonly Entry[] {
  const json = readObject(index);
  if (json === undefined) throw protocolError('bad-json', `the index of ${reference} is not JSON`);
  // Encoders of Go leave null where the list is empty.
  const list = json['manifests'] ?? [];
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

/** Where an entry names an architecture alone, the system is that of the host: Linux. */
function readPlatform(value: unknown): Platform | undefined {
  const { os, architecture, variant } = Object(value) as Record<string, unknown>;
  const isNamed = [os, architecture].some((each) => typeof each === 'string' && each !== '');
  if (!isNamed) return undefined;
  return {
    os: typeof os === 'string' && os !== '' ? os : 'linux',
    architecture: typeof architecture === 'string' ? architecture : '',
    ...(typeof variant === 'string' && { variant }),
  };
}

/** OS, architecture and variant, as `linux/arm64/v8`. */
export function platformName({ os, architecture, variant }: Platform): string {
  return [os, architecture, variant].filter(Boolean).join('/');
}
