import { CodedError } from '../util/errors.ts';

/**
 * What is wrong with a layer or an image.
 *
 * `not-a-layer`: neither tar, ZFile nor LSMT. `truncated`: bytes are missing. `damaged`: a
 * checksum, a magic number or a structure is wrong. `out-of-range`: a size or a position exceeds a
 * limit or the file. `unsupported`: sound, but of a form that Xylem does not read. `unreadable`:
 * the bytes could not be read.
 */
export type ImageErrorDetail =
  | { readonly code: 'not-a-layer' }
  | { readonly code: 'truncated'; readonly part: string }
  | { readonly code: 'damaged'; readonly part: string }
  | { readonly code: 'out-of-range'; readonly part: string; readonly value: number }
  | { readonly code: 'unsupported'; readonly part: string }
  | { readonly code: 'unreadable'; readonly part: string };

/** A layer or an image cannot be read; names the wrong part. */
export class ImageError extends CodedError<ImageErrorDetail> {}

/** For a wrong checksum, magic number or order in `part`. */
export function damaged(part: string, what: string, cause?: unknown): ImageError {
  return new ImageError(`${part} is damaged: ${what}`, { code: 'damaged', part }, { cause });
}

/** For a number in `part` that exceeds a limit or the file. `rule` says what it must be. */
export function outOfRange(part: string, value: number, rule: string): ImageError {
  return new ImageError(`${part} is ${value}, but ${rule}`, { code: 'out-of-range', part, value });
}

/** For missing bytes of `part`. */
export function truncated(part: string, what: string): ImageError {
  return new ImageError(`${part} is cut short: ${what}`, { code: 'truncated', part });
}
