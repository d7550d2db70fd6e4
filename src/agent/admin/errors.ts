import { CodedError } from '../../util/errors.ts';

/** What a command did not get from a running agent. */
export class AdminError extends CodedError<
  | { readonly code: 'admin-unreachable'; readonly url: string }
  | { readonly code: 'admin-timeout'; readonly url: string }
  | { readonly code: 'admin-protocol'; readonly url: string }
  | { readonly code: 'preheat'; readonly id: string }
  | { readonly code: 'acceleration'; readonly image: string; readonly kind: string }
  | { readonly code: 'admin-refused'; readonly status: number; readonly reason: string }
> {}

/**
 * Why the admin endpoint itself refuses a request.
 *
 * - `bad-request`, `too-large`, `media-type`: what was sent. `not-found`: no route.
 * - `unauthorized`: it came without a token that opens anything. `forbidden`: its token opens other
 *   routes.
 * - `not-ready`: the agent cannot serve yet. `no-agent`, `no-devices`, `no-store`, `no-preheats`,
 *   `no-acceleration`: this process is or has none.
 * - `timeout`: it took too long, or the client went away.
 */
export class RequestError extends CodedError<{
  readonly code:
    | 'bad-request'
    | 'too-large'
    | 'media-type'
    | 'not-found'
    | 'unauthorized'
    | 'forbidden'
    | 'not-ready'
    | 'no-agent'
    | 'no-devices'
    | 'no-store'
    | 'no-preheats'
    | 'no-acceleration'
    | 'timeout';
}> {}
