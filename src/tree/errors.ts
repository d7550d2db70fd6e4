import { CodedError } from '../util/errors.ts';

/**
 * Why a tree request was refused.
 *
 * - `full`: a bound of the owner is reached; nothing was changed. The host may ask again later.
 * - `invalid`: the request breaks a rule that every agent keeps; asking again does not help.
 */
export type TreeErrorDetail =
  | { readonly code: 'full'; readonly what: 'hosts' | 'trees' | 'members'; readonly limit: number }
  | { readonly code: 'invalid'; readonly field: string };

export class TreeError extends CodedError<TreeErrorDetail> {}
