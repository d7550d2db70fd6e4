import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

type Collect = (options: {
  readonly type: 'major';
  readonly execution: 'sync';
  readonly flavor: 'last-resort';
}) => void;

/**
 * Collects all garbage now and compacts the heap, so that memory returns to the system. Nothing
 * else runs for its 0.1 to 0.2 s.
 */
export function collectGarbage(): void {
  setFlagsFromString('--expose-gc');
  // Only contexts made after the flag was set have the function.
  const collect = runInNewContext('gc') as Collect;
  collect({ type: 'major', execution: 'sync', flavor: 'last-resort' });
  setFlagsFromString('--no-expose-gc');
}
