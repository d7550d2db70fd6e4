import type { Digest } from '../../image/digest.ts';
import { parseReference } from '../../registry/reference.ts';
import { ConvertError } from '../errors.ts';
import { parseLayoutTarget } from '../oci-layout.ts';
import { ArchiveSource } from './archive-source.ts';
import { ArchiveTarget } from './archive-target.ts';
import { LayoutPlace, type LayoutPlaceComponents } from './layout-place.ts';
import type { ImagePlace, ImageTarget } from './place.ts';
import { RegistryPlace, type RegistryPlaceComponents } from './registry-place.ts';

/** What places use. */
export interface PlaceComponents extends RegistryPlaceComponents, LayoutPlaceComponents {}

/** What a text can name an image by. */
export const PLACES = 'docker://HOST/NAME:TAG, oci:DIR:tag or docker-archive:FILE[:REF]';

/** Whether the text names an image, and no file. */
export function isPlace(text: string): boolean {
  return isInRegistry(text) || isArchive(text) || text.startsWith('oci:');
}

/** The image that the text names, to read it. Throws ConvertError or RegistryError. */
export function openSource(text: string, components: PlaceComponents): ImagePlace {
  if (isArchive(text)) return new ArchiveSource(components, text);
  return openBoth(text, components);
}

/** The place that the text names, to put an image there. Throws ConvertError or RegistryError. */
export function openTarget(text: string, components: PlaceComponents): ImageTarget {
  if (isArchive(text)) return new ArchiveTarget(text);
  return openBoth(text, components);
}

/**
 * The repository of an image in a registry, to put an image there that gets no tag. Throws
 * ConvertError or RegistryError.
 */
export function openUntagged(text: string, components: RegistryPlaceComponents): RegistryPlace {
  if (isInRegistry(text)) return new RegistryPlace(components, text, { isUntagged: true });
  const what = `${JSON.stringify(text)} is no image in a registry: name a destination`;
  throw new ConvertError(what, { code: 'argument' });
}

/**
 * The text for another tag in the same repository or layout; undefined for an archive, which has
 * none. Throws ConvertError or RegistryError.
 */
export function withTag(text: string, tag: string): string | undefined {
  if (isArchive(text)) return undefined;
  if (!isInRegistry(text)) return `oci:${parseLayoutTarget(text).directory}:${tag}`;
  const { registry, repository } = parseReference(text);
  return `docker://${registry}/${repository}:${tag}`;
}

/** The text for an image of this digest in the same repository of a registry. */
export function atDigest(text: string, digest: Digest): string {
  const { registry, repository } = parseReference(text);
  return `docker://${registry}/${repository}@${digest}`;
}

/** The registries among these places. Throws RegistryError. */
export function registriesIn(texts: readonly string[]): readonly string[] {
  return [...new Set(texts.filter(isInRegistry).map((text) => parseReference(text).registry))];
}

function openBoth(text: string, components: PlaceComponents): RegistryPlace | LayoutPlace {
  if (isInRegistry(text)) return new RegistryPlace(components, text);
  if (text.startsWith('oci:')) return new LayoutPlace(components, text);
  throw new ConvertError(`${JSON.stringify(text)} is no place for an image: write ${PLACES}`, {
    code: 'argument',
  });
}

function isInRegistry(text: string): boolean {
  return text.startsWith('docker://');
}

function isArchive(text: string): boolean {
  return text.startsWith('docker-archive:');
}
