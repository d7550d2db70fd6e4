import { CodedError } from '../util/errors.ts';

/**
 * Why a trace was not recorded.
 *
 * `not-permitted`: it takes root, and programs that this host lacks. `command`: there is none, or
 * it ended with an exit code other than 0. `no-answer`: the URL did not answer in time, or before
 * the command ended. `user`: the image names a user that it does not know. `failed`: a step failed.
 */
export type TraceErrorDetail =
  | { readonly code: 'not-permitted' }
  | { readonly code: 'command'; readonly exitCode: number }
  | { readonly code: 'no-answer'; readonly url: string }
  | { readonly code: 'user'; readonly user: string }
  | { readonly code: 'failed'; readonly step: string };

/** A trace could not be recorded. */
export class TraceError extends CodedError<TraceErrorDetail> {}
