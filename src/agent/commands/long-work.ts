import { ConvertError } from '../../convert/errors.ts';
import type { ProgressOptions } from '../../convert/layer-blob.ts';

/** Shortest interval between two updates of the progress line. */
const PROGRESS_INTERVAL_MS = 200;

const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

/**
 * Runs work that takes a while. The first SIGINT or SIGTERM stops it cleanly, a second one at once.
 * Progress goes to standard error if that is a terminal.
 */
export async function longWork<T>(
  work: (options: Required<ProgressOptions>) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const stop = (): void => {
    controller.abort(
      new ConvertError('interrupted: removed the partial result', { code: 'interrupted' }),
    );
  };
  for (const name of SIGNALS) process.once(name, stop);
  const progress = new ProgressLine();
  try {
    return await work({
      signal: controller.signal,
      onProgress: (step, done, total) => progress.show(step, done, total),
    });
  } catch (error) {
    // Whatever failed first because of the signal, report the signal as the reason.
    controller.signal.throwIfAborted();
    throw error;
  } finally {
    for (const name of SIGNALS) process.removeListener(name, stop);
    progress.clear();
  }
}

/** A line on a terminal that each update overwrites. */
export class ProgressLine {
  #lastMs = 0;
  #isShown = false;

  show(step: string, doneBytes: number, totalBytes: number): void {
    const nowMs = Date.now();
    if (!process.stderr.isTTY || nowMs - this.#lastMs < PROGRESS_INTERVAL_MS) return;
    this.#lastMs = nowMs;
    this.#isShown = true;
    const percent = totalBytes === 0 ? 100 : Math.floor((doneBytes / totalBytes) * 100);
    process.stderr.write(`\r\u001b[K${step} ${percent} %`);
  }

  clear(): void {
    if (this.#isShown) process.stderr.write('\r\u001b[K');
  }
}
