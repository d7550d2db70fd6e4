import type { AtEnd } from './temp-folder.ts';

const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

/**
 * Does the work, then ends what it started, last first: also when it fails or is interrupted.
 * Rejects with the failure of the work, or else with those of the ends.
 */
export async function withEndings<T>(work: (atEnd: AtEnd) => Promise<T>): Promise<T> {
  const ends: (() => void | Promise<void>)[] = [];
  const endAll = async (): Promise<readonly unknown[]> => {
    const failures: unknown[] = [];
    for (let end = ends.pop(); end !== undefined; end = ends.pop()) {
      try {
        await end();
      } catch (error) {
        failures.push(error);
      }
    }
    return failures;
  };
  const interrupted = (): void => void endAll().finally(() => process.exit(130));
  for (const signal of SIGNALS) process.once(signal, interrupted);
  try {
    const result = await work((end) => void ends.push(end));
    const failures = await endAll();
    if (failures.length > 0) throw new AggregateError(failures, 'it did not end well');
    return result;
  } finally {
    await endAll();
    for (const signal of SIGNALS) process.off(signal, interrupted);
  }
}
