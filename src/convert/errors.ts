import type { Digest } from '../image/digest.ts';
import { CodedError } from '../util/errors.ts';

/**
 * Why a conversion, a check or a flattening of an image failed.
 *
 * `argument`: an invalid source, destination or name. `file`: a file operation failed.
 * `disk-full`: one failed for want of room. `tool`: a program is missing or failed. `too-large`: a
 * limit is exceeded. `layout`: the directory is no valid OCI layout, or lacks the tag. `archive`:
 * the file is no archive of images, or lacks the image. `manifest`: a manifest is invalid.
 * `digest-mismatch`: content does not match its digest. `tar`: a layer's archive is damaged, or an
 * entry of it is not supported or goes beyond a limit; the entry's path (a character per byte) and
 * its offset in the uncompressed archive. `layer`: an entry asks for what no file system may be
 * given. `filesystem`: libext2fs refused a change; `number` is its error number, or 0. `busy`:
 * other writers are in the way. `interrupted`: the user stopped the command.
 */
export type ConvertErrorDetail =
  | { readonly code: 'argument' }
  | { readonly code: 'file' | 'disk-full'; readonly path: string }
  | { readonly code: 'tool'; readonly program: string }
  | { readonly code: 'too-large'; readonly value: number }
  | { readonly code: 'layout'; readonly path: string }
  | { readonly code: 'archive'; readonly path: string }
  | { readonly code: 'manifest'; readonly digest: Digest }
  | { readonly code: 'digest-mismatch'; readonly digest: Digest }
  | { readonly code: 'busy' }
  | { readonly code: 'tar'; readonly path: string; readonly offset: number }
  | { readonly code: 'layer' }
  | { readonly code: 'filesystem'; readonly number: number }
  | { readonly code: 'interrupted' };

/** An image could not be converted, checked or flattened. */
export class ConvertError extends CodedError<ConvertErrorDetail> {}
