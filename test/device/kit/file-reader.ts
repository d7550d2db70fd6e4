import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { defined } from '../../../src/util/assert.ts';

interface Answer {
  readonly id: number;
  readonly code?: string;
  readonly hex?: string;
}

/**
 * Reads a file through a process of its own, since the process that serves the file must not touch
 * it. Life: constructed -> reads -> `close()`.
 */
export class FileReader {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, PromiseWithResolvers<Answer>>();
  #next = 1;

  constructor(path: string) {
    const script = fileURLToPath(new URL('./read-child.ts', import.meta.url));
    this.#child = spawn(process.execPath, ['--no-warnings', script, path], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const output = defined(this.#child.stdout, 'it is a pipe');
    createInterface({ input: output }).on('line', (line) => {
      const answer = JSON.parse(line) as Answer;
      this.#waiting.get(answer.id)?.resolve(answer);
      this.#waiting.delete(answer.id);
    });
    this.#child.once('close', () => {
      for (const { reject } of this.#waiting.values()) reject(new Error('the reader has ended'));
    });
  }

  /** The bytes of a range, fewer at the end of the file; rejects with the error's code. */
  async read(offset: number, length: number): Promise<Buffer> {
    const { code, hex } = await this.#ask({ offset, length });
    if (code !== undefined) throw Object.assign(new Error(code), { code });
    return Buffer.from(hex ?? '', 'hex');
  }

  /** Code of the error of a write, or `none`. */
  async write(): Promise<string> {
    return (await this.#ask({ offset: 0, length: -1 })).code ?? 'none';
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, 'close');
    this.#child.kill('SIGKILL');
    await ended;
  }

  #ask(wanted: { offset: number; length: number }): Promise<Answer> {
    const id = this.#next++;
    const waiting = Promise.withResolvers<Answer>();
    this.#waiting.set(id, waiting);
    this.#child.stdin?.write(`${JSON.stringify({ id, ...wanted })}\n`);
    return waiting.promise;
  }
}
