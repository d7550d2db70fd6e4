import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** Collects all garbage now: tens of milliseconds in which nothing else runs. */
export function collectGarbage(): void {
  setFlagsFromString('--expose-gc');
  // The function is in contexts made after the flag was set.
  (runInNewContext('gc') as () => void)();
  setFlagsFromString('--no-expose-gc');
}
