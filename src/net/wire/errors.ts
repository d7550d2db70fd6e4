import { CodedError } from '../../util/errors.ts';

/**
 * Bytes of a peer that break the wire protocol (docs/WIRE_PROTOCOL.md), or a message that we cannot
 * write in it.
 *
 * - `truncated`, `trailing`: shorter or longer than its fields say. `limit`: a count or length over
 *   its bound.
 * - `value`: a field outside its range or out of canonical form. `utf8`: bytes that are not UTF-8.
 * - `type`: a frame that does not belong here.
 */
export class WireError extends CodedError<
  | { readonly code: 'truncated' }
  | { readonly code: 'trailing'; readonly byteCount: number }
  | { readonly code: 'limit'; readonly field: string; readonly found: number; readonly max: number }
  | { readonly code: 'value'; readonly field: string }
  | { readonly code: 'utf8'; readonly field: string }
  | { readonly code: 'type'; readonly type: number }
> {}

/** A field outside its range. */
export function badValue(field: string, rule: string, found: unknown): WireError {
  return new WireError(`wire field ${field} must be ${rule}, found ${String(found)}`, {
    code: 'value',
    field,
  });
}

/** A count or a length over its bound. */
export function overLimit(field: string, found: number, max: number): WireError {
  return new WireError(`wire field ${field} is ${found}, at most ${max} are taken`, {
    code: 'limit',
    field,
    found,
    max,
  });
}
