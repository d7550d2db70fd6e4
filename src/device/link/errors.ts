import { CodedError } from '../../util/errors.ts';

/**
 * Codes of errors in their order on the wire.
 *
 * - `not-found`, `not-authorized`: the registry says so. `damaged`: what came is no sound image.
 * - `unreachable`: neither agent, peers nor registry gave it before the deadline.
 * - `invalid`: the request itself is wrong, such as layers that are not those of the manifest.
 * - `unknown-blob`: of no image that is open. `overloaded`: a bound is reached, later may do.
 * - `cancelled`: somebody gave up. `failed`: a mistake of the agent, whose log says more.
 */
export const LINK_ERROR_CODES = [
  'not-found',
  'not-authorized',
  'damaged',
  'unreachable',
  'invalid',
  'unknown-blob',
  'overloaded',
  'cancelled',
  'failed',
] as const;

/** Why the agent did not give what the device process asked. */
export type LinkErrorCode = (typeof LINK_ERROR_CODES)[number];

/** An image that could not be opened, or a block that could not be read, through the agent. */
export class LinkError extends CodedError<{ readonly code: LinkErrorCode }> {}

/** Whether asking again soon changes nothing: the registry, or the image itself, says no. */
export function isFinal(code: LinkErrorCode): boolean {
  return (
    code === 'not-found' || code === 'not-authorized' || code === 'damaged' || code === 'invalid'
  );
}
