import { parseReference } from '../../registry/reference.ts';
import { ConvertError } from '../errors.ts';

/** An image in an archive: `docker-archive:FILE[:REF]`. */
export interface ArchiveName {
  readonly file: string;
  /** The image's name and tag, as the user wrote it. */
  readonly reference: string | undefined;
}

const PREFIX = 'docker-archive:';

/** Reads `docker-archive:FILE[:REF]`; a colon ends the file. Throws ConvertError. */
export function parseArchiveName(text: string): ArchiveName {
  const rest = text.slice(PREFIX.length);
  const colon = rest.indexOf(':');
  const file = colon < 0 ? rest : rest.slice(0, colon);
  const reference = colon < 0 ? undefined : rest.slice(colon + 1);
  if (text.startsWith(PREFIX) && file !== '' && reference !== '') {
    if (reference !== undefined) parseReference(reference);
    return { file, reference };
  }
  throw new ConvertError(
    `${JSON.stringify(text)} is no place for an image: it must be docker-archive:FILE or ` +
      'docker-archive:FILE:NAME:TAG, for instance docker-archive:app.tar:app:1.4',
    { code: 'argument' },
  );
}

/** The full name of an image: with its registry and its tag. */
export function fullName(reference: string): { readonly name: string; readonly tag: string } {
  const { registry, repository, tag = 'latest' } = parseReference(reference);
  return { name: `${registry}/${repository}:${tag}`, tag };
}

/** Whether two names mean the same image; one that cannot be read means none. */
export function isSameName(one: string, other: string): boolean {
  try {
    return fullName(one).name === fullName(other).name;
  } catch {
    return false;
  }
}
