import { CodedError } from '../util/errors.ts';

/**
 * Why a tree request was refused.
 *
 * - `full`: the owner keeps so many hosts already; nothing was changed. The host may ask again later, or another root.
 * - `invalid`: the request breaks a rule that every agent keeps; asking again does not help.
 */
export type TreeErrorDetail =
  | { readonly code: 'full'; readonly what: 'hosts'; readonly limit: number }
  | { readonly code: 'invalid'; readonly field: string };

export class TreeError extends CodedError<TreeErrorDetail> {}
