import { CodedError } from '../util/errors.ts';

/**
 * Why an owner refused a tree request.
 *
 * - `full`: the owner keeps its maximum of hosts and changed nothing. The host may ask again later,
 *   or another root.
 * - `invalid`: the request breaks a rule that every agent keeps. Asking again does not help.
 */
export type TreeErrorDetail =
  | { readonly code: 'full'; readonly what: 'hosts'; readonly limit: number }
  | { readonly code: 'invalid'; readonly field: string };

/** An owner refused a tree request; `detail` says why. */
export class TreeError extends CodedError<TreeErrorDetail> {}
