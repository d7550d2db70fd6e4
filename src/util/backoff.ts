/**
 * Milliseconds to wait after `failureCount` failures in a row: `minMs` after the first, doubled
 * after each further one, at most `maxMs`.
 */
export function backoffMs(failureCount: number, minMs: number, maxMs: number): number {
  return Math.min(maxMs, minMs * 2 ** (failureCount - 1));
}
