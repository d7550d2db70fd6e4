import { Worker } from 'node:worker_threads';
import type { BackgroundHash, BackgroundHasher } from '../background-hash.ts';
import type { HashWorkerMessage } from './hash-worker.ts';

/** Hashes in a worker thread of its own, which lives as long as the hasher. */
class WorkerHasher implements BackgroundHasher {
  readonly #worker: Worker;
  #settle: { resolve: (answer: unknown) => void; reject: (error: Error) => void } | undefined;
  #over: Error | undefined;

  constructor() {
    // The sources run as they are under Node's type stripping, and as .js when built.
    const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
    this.#worker = new Worker(new URL(`./hash-worker.${extension}`, import.meta.url), {
      execArgv: ['--no-warnings'],
    });
    this.#worker.on('message', (answer: unknown) => {
      const settle = this.#settle;
      this.#settle = undefined;
      settle?.resolve(answer);
    });
    this.#worker.on('error', (error: Error) => this.#end(error));
    this.#worker.on('exit', () => this.#end(new Error('the hashing thread ended')));
    this.#worker.unref();
  }

  async update(data: Uint8Array): Promise<void> {
    await this.#ask(data);
  }

  async digest(): Promise<Uint8Array> {
    return (await this.#ask('digest')) as Uint8Array;
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }

  #ask(message: HashWorkerMessage): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#over !== undefined) return reject(this.#over);
      this.#settle = { resolve, reject };
      this.#worker.postMessage(message);
    });
  }

  #end(error: Error): void {
    this.#over ??= error;
    this.#settle?.reject(this.#over);
    this.#settle = undefined;
  }
}

/** SHA-256 in worker threads, one for each hasher. */
export class NodeBackgroundHash implements BackgroundHash {
  sha256(): BackgroundHasher {
    return new WorkerHasher();
  }
}
