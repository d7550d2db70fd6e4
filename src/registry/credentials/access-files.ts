import { readFileSync, statSync } from 'node:fs';
import { CodedError, errorText } from '../../util/errors.ts';

/**
 * A file that the configuration names for the access to registries cannot be used. Messages never
 * hold its content.
 */
export class AccessFileError extends CodedError<
  | { readonly code: 'unreadable'; readonly key: string; readonly path: string }
  | { readonly code: 'invalid'; readonly key: string; readonly path: string }
> {}

/** A file, and the key of the configuration that led to it. */
export interface NamedFile {
  readonly key: string;
  readonly path: string;
}

/** The text of a file of bounded size. Throws AccessFileError. */
export function readAccessFile(file: NamedFile, sizeBytesMax: number): string {
  let sizeBytes: number;
  let text = '';
  try {
    sizeBytes = statSync(file.path).size;
    if (sizeBytes <= sizeBytesMax) text = readFileSync(file.path, 'utf8');
  } catch (cause) {
    throw unreadable(file, cause);
  }
  if (sizeBytes <= sizeBytesMax) return text;
  throw invalid(file, `it has ${sizeBytes} bytes, and at most ${sizeBytesMax} are read`);
}

/** An error (`unreadable`) for a file that the configuration names and the agent cannot read. */
export function unreadable({ key, path }: NamedFile, cause: unknown): AccessFileError {
  const why = `${key} is ${JSON.stringify(path)}, which cannot be read: ${errorText(cause)}`;
  return new AccessFileError(why, { code: 'unreadable', key, path }, { cause });
}

/** `rule` completes the sentence: what the file must hold. */
export function invalid({ key, path }: NamedFile, rule: string): AccessFileError {
  const what = `${key} is ${JSON.stringify(path)}: ${rule}`;
  return new AccessFileError(what, { code: 'invalid', key, path });
}
