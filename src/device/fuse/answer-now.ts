import { writeSync } from 'node:fs';

/**
 * Writes an answer to the kernel: the first `length` bytes. Failures are normal when the request
 * was interrupted or aborted, or the filesystem unmounted: no process waits for the answer.
 */
export function answerNow(fd: number, bytes: Uint8Array, length = bytes.length): void {
  try {
    writeSync(fd, bytes, 0, length);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ENODEV' && code !== 'ECONNABORTED') throw error;
  }
}
