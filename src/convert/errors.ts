import { CodedError } from '../util/errors.ts';

/**
 * Why a conversion, a check or a flattening of an image failed.
 *
 * `argument`: an invalid source, destination or name. `file`: a file operation failed. `tool`: a
 * program is missing or failed. `too-large`: a limit is exceeded. `layout`: the directory is no
 * valid OCI layout, or lacks the tag. `interrupted`: the user stopped the command.
 */
export type ConvertErrorDetail =
  | { readonly code: 'argument' }
  | { readonly code: 'file'; readonly path: string }
  | { readonly code: 'tool'; readonly program: string }
  | { readonly code: 'too-large'; readonly value: number }
  | { readonly code: 'layout'; readonly path: string }
  | { readonly code: 'interrupted' };

/** An image could not be converted, checked or flattened. */
export class ConvertError extends CodedError<ConvertErrorDetail> {}
