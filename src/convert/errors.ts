import { CodedError } from '../util/errors.ts';

/**
 * Why an image could not be made or written.
 *
 * `argument`: a source, destination or name that is none. `file`: the file system refused. `tool`: a program is missing or
 * failed. `too-large`: past a limit. `layout`: the OCI layout that was found is not one.
 * `interrupted`: the user stopped it.
 */
export type ConvertErrorDetail =
  | { readonly code: 'argument' }
  | { readonly code: 'file'; readonly path: string }
  | { readonly code: 'tool'; readonly program: string }
  | { readonly code: 'too-large'; readonly value: number }
  | { readonly code: 'layout'; readonly path: string }
  | { readonly code: 'interrupted' };

export class ConvertError extends CodedError<ConvertErrorDetail> {}
