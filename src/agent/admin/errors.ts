import { CodedError } from '../../util/errors.ts';

/** What a command did not get from a running agent. */
export class AdminError extends CodedError<
  | { readonly code: 'admin-unreachable'; readonly url: string }
  | { readonly code: 'admin-timeout'; readonly url: string }
  | { readonly code: 'admin-protocol'; readonly url: string }
  | { readonly code: 'preheat'; readonly id: string }
  | { readonly code: 'admin-refused'; readonly status: number; readonly reason: string }
> {}
