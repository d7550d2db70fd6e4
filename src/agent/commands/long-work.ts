import { ConvertError } from '../../convert/errors.ts';
import type { ProgressOptions } from '../../convert/layer-blob.ts';
import { withWorkFolder } from '../../convert/work-folder.ts';
import { plainText } from '../../util/plain-text.ts';
import { onEndSignal } from '../end-signals.ts';
import { warn } from './output.ts';

/** Shortest interval between two updates of the progress line. */
const PROGRESS_INTERVAL_MS = 200;

/** A line for programs comes at least this often: who reads it learns that the work goes on. */
const BEAT_MS = 1000;

/** How progress is shown: to people on a terminal, or as lines of JSON to a program. */
export type ProgressKind = 'auto' | 'json';

/**
 * Runs work that takes a while. The first SIGINT or SIGTERM stops it cleanly, a second one at once.
 * Progress goes to standard error: if that is a terminal, or, as `json`, in any case. Then the work
 * also stops when nobody reads there any more.
 */
export async function longWork<T>(
  work: (options: Required<ProgressOptions>) => Promise<T>,
  kind: ProgressKind = 'auto',
): Promise<T> {
  const controller = new AbortController();
  const stop = (): void => {
    controller.abort(
      new ConvertError('interrupted: removed the partial result', { code: 'interrupted' }),
    );
  };
  const leave = onEndSignal(stop);
  const progress = kind === 'json' ? new ProgressBeat(stop) : new ProgressLine();
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
    leave();
    progress.clear();
  }
}

/**
 * Gives `work` a folder for temporary files, in `base` or where the system has them. Says what
 * killed commands had left there.
 */
export function inWorkFolder<T>(
  base: string | undefined,
  work: (folder: string) => Promise<T>,
): Promise<T> {
  return withWorkFolder(base, work, sayCleared);
}

/** Says which folders of killed commands were removed. */
export function sayCleared(folders: readonly string[]): void {
  warn(`removed what killed commands had left: ${folders.join(', ')}`);
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
    process.stderr.write(`\r\u001b[K${plainText(step)} ${percent} %`);
  }

  clear(): void {
    if (this.#isShown) process.stderr.write('\r\u001b[K');
  }
}

/** Progress as lines of JSON, for a program that runs this one. */
class ProgressBeat {
  readonly #timer: NodeJS.Timeout;
  #last = { step: '', doneBytes: 0, totalBytes: 0 };
  #writtenMs = -Infinity;

  constructor(onLeft: () => void) {
    process.stderr.on('error', onLeft);
    this.#timer = setInterval(() => this.#write(), BEAT_MS);
  }

  show(step: string, doneBytes: number, totalBytes: number): void {
    const isNew = step !== this.#last.step;
    this.#last = { step, doneBytes, totalBytes };
    if (isNew || Date.now() - this.#writtenMs >= BEAT_MS) this.#write();
  }

  clear(): void {
    clearInterval(this.#timer);
  }

  #write(): void {
    this.#writtenMs = Date.now();
    process.stderr.write(`${JSON.stringify({ progress: this.#last })}\n`);
  }
}
