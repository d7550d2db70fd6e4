import { MANIFEST_SIZE_BYTES_MAX } from '../image/manifest.ts';
import { RegistryError } from '../registry/errors.ts';
import {
  fitsPlatform,
  isIndex,
  platformIn,
  platformName,
  selectPlatform,
  type Platform,
} from '../registry/platform.ts';
import { readParts, type StoredManifest } from './places/manifest-parts.ts';
import type { ImagePlace } from './places/place.ts';
import { collect } from './source-image.ts';

/** Indexes within indexes that are followed. */
const DEPTH_MAX = 4;

/**
 * The manifest of an image for a platform: of an index, the entry for it; an image that is no index
 * must be made for it, by its own config. Throws RegistryError (`no-platform`), and what the place
 * throws.
 */
export async function choosePlatform(
  place: ImagePlace,
  root: StoredManifest,
  { platform, signal }: { readonly platform: Platform; readonly signal: AbortSignal },
): Promise<StoredManifest> {
  let stored = root;
  for (let depth = 0; isIndex(stored) && depth < DEPTH_MAX; depth++) {
    stored = await place.manifest(selectPlatform(stored.bytes, platform, place.name), signal);
  }
  if (stored !== root) return stored;
  const made = await madeFor(place, root, signal);
  if (made === undefined || fits(made, platform)) return root;
  const what = `${place.name} is made for ${platformName(made)}, not for ${platformName(platform)}`;
  throw new RegistryError(what, { code: 'no-platform' });
}

/** What the config says; undefined where it says nothing, as that of an artifact does. */
async function madeFor(
  place: ImagePlace,
  stored: StoredManifest,
  signal: AbortSignal,
): Promise<Platform | undefined> {
  const { config } = readParts(stored);
  if (config === undefined || config.size > MANIFEST_SIZE_BYTES_MAX) return undefined;
  const blob = { digest: config.digest, sizeBytes: config.size };
  const bytes = await collect(place.openBlob(blob, signal));
  try {
    const found: unknown = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
    const { architecture } = Object(found) as { architecture?: unknown };
    return typeof architecture === 'string' ? platformIn(found) : undefined;
  } catch {
    return undefined;
  }
}

/** Images for arm64 seldom name their variant. */
function fits(made: Platform, wanted: Platform): boolean {
  const { variant, ...anyVariant } = wanted;
  return fitsPlatform(made, made.variant === undefined ? anyVariant : wanted);
}
