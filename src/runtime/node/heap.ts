import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

type Collect = (options: {
  readonly type: 'major';
  readonly execution: 'sync';
  readonly flavor: 'last-resort';
}) => void;

/** Collects all garbage now and moves what is left together, so that memory goes back to the system: 0.1 to 0.2 s in which nothing else runs. */
export function collectGarbage(): void {
  setFlagsFromString('--expose-gc');
  // The function is in contexts made after the flag was set.
  const collect = runInNewContext('gc') as Collect;
  collect({ type: 'major', execution: 'sync', flavor: 'last-resort' });
  setFlagsFromString('--no-expose-gc');
}
