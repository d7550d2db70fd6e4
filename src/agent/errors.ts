import { CodedError } from '../util/errors.ts';

/** What goes wrong around the agent's servers and their clients. */
export class AgentError extends CodedError<
  | { readonly code: 'listen'; readonly key: string }
  | { readonly code: 'local-read' }
  | { readonly code: 'admin-unreachable'; readonly url: string }
  | { readonly code: 'admin-timeout'; readonly url: string }
  | { readonly code: 'admin-protocol'; readonly url: string }
  | { readonly code: 'preheat'; readonly id: string }
  | { readonly code: 'admin-refused'; readonly status: number; readonly reason: string }
> {}
