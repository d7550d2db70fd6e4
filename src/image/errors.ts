import { CodedError } from '../util/errors.ts';

/**
 * What a layer or an image can have wrong.
 *
 * `not-a-layer`: neither tar, ZFile nor LSMT. `truncated`: bytes that must be there are not. `damaged`: a checksum, a magic
 * number or a structure does not hold. `out-of-range`: a size or a position that a limit or the file refuses.
 * `unsupported`: sound, but not something Xylem reads. `unreadable`: the bytes could not be had.
 */
export type ImageErrorDetail =
  | { readonly code: 'not-a-layer' }
  | { readonly code: 'truncated'; readonly part: string }
  | { readonly code: 'damaged'; readonly part: string }
  | { readonly code: 'out-of-range'; readonly part: string; readonly value: number }
  | { readonly code: 'unsupported'; readonly part: string }
  | { readonly code: 'unreadable'; readonly part: string };

/** A layer or an image that cannot be read, with the part that is wrong. */
export class ImageError extends CodedError<ImageErrorDetail> {}

/** For a checksum, a magic number or an order that does not hold in `part`. */
export function damaged(part: string, what: string, cause?: unknown): ImageError {
  return new ImageError(`${part} is damaged: ${what}`, { code: 'damaged', part }, { cause });
}

/** For a number in `part` that a limit or the file refuses. */
export function outOfRange(part: string, value: number, rule: string): ImageError {
  return new ImageError(`${part} is ${value}, but ${rule}`, { code: 'out-of-range', part, value });
}

/** For bytes of `part` that should be there. */
export function truncated(part: string, what: string): ImageError {
  return new ImageError(`${part} is cut short: ${what}`, { code: 'truncated', part });
}
