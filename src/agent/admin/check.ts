import type { z } from 'zod';
import type { Route, RouteName, Taken } from './api.ts';
import { RequestError } from './errors.ts';

/** Longest value that an error repeats, in characters. */
const SHOWN_LENGTH_MAX = 200;

/** What a request brings along, unchecked. */
export interface Brought {
  readonly params: unknown;
  readonly query: unknown;
  readonly body: unknown;
}

/**
 * The fields of a request, checked and put together as the route takes them. Throws RequestError.
 */
export function check<N extends RouteName>(route: Route, brought: Brought): Taken<N> {
  const isSecret = route.isSecret === true;
  const part = (schema: z.ZodObject | undefined, value: unknown): object => {
    const result = schema?.safeParse(value);
    if (result?.success === false) throw badRequest(value, result.error.issues[0], isSecret);
    return result?.data ?? {};
  };
  return {
    ...part(route.params, brought.params),
    ...part(route.query, brought.query),
    ...part(route.body, brought.body),
  } as Taken<N>;
}

/** A field that breaks its rule; the rule completes "must be ...". */
export function brokenRule(field: string, rule: string): RequestError {
  return new RequestError(`${field} must be ${rule}`, { code: 'bad-request' });
}

function badRequest(
  value: unknown,
  issue: z.core.$ZodIssue | undefined,
  isSecret: boolean,
): RequestError {
  const path = issue?.path ?? [];
  const field = path.length === 0 ? 'the body' : path.join('.');
  if (issue?.code === 'unrecognized_keys') {
    return brokenRule(field, `without the unknown key ${JSON.stringify(issue.keys[0])}`);
  }
  const rule = issue?.message ?? '';
  // A body that may hold credentials is not repeated.
  if (isSecret || path.length === 0) return brokenRule(field, rule);
  const found = path.reduce<unknown>((at, key) => (at as Record<PropertyKey, unknown>)[key], value);
  const shown = found === undefined ? 'missing' : JSON.stringify(found).slice(0, SHOWN_LENGTH_MAX);
  return brokenRule(`${field} is ${shown}, but`, rule);
}
