import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { moduleBeside } from '../../runtime/node/module-beside.ts';
import type { SnapshotRecord } from '../catalog/snapshot.ts';
import { SnapshotError, WHAT_TO_DO } from '../errors.ts';
import type { RecordBatch, RecordStore, StoredRecords } from './record-store.ts';

/** What the worker is asked, one at a time. */
export type StoreRequest =
  | { readonly do: 'open'; readonly path: string }
  | {
      readonly do: 'write';
      readonly puts: readonly (readonly [id: number, record: string])[];
      readonly deletes: readonly number[];
      readonly nextId: number;
    }
  | { readonly do: 'close' };

/** What the worker answers. */
export type StoreAnswer =
  | { readonly records: readonly string[]; readonly nextId: number }
  | { readonly error: string };

/**
 * Records in an SQLite database: one file, WAL, each write synced to the disk. A thread of its own
 * waits for the disk, which may take seconds while layers are unpacked.
 */
export class SqliteStore implements RecordStore {
  readonly #path: string;
  #worker: Worker | undefined;

  constructor(init: { path: string }) {
    this.#path = init.path;
  }

  async open(): Promise<StoredRecords> {
    const worker = new Worker(moduleBeside(import.meta.url, 'sqlite-worker'), {
      // SQLite is marked experimental in Node 22; the few calls of the worker are not new ones.
      execArgv: ['--disable-warning=ExperimentalWarning'],
      resourceLimits: { maxYoungGenerationSizeMb: 2 },
      name: 'snapshot-metadata',
    });
    worker.unref();
    // Who asks then hears of it too.
    worker.on('error', () => {});
    worker.on('exit', () => (this.#worker = undefined));
    this.#worker = worker;
    const { records, nextId } = await this.#ask({ do: 'open', path: this.#path }, WHAT_TO_DO);
    return { records: records.map((text) => JSON.parse(text) as SnapshotRecord), nextId };
  }

  async write({ puts, deletes, nextId }: RecordBatch): Promise<void> {
    const texts = puts.map((record) => [record.id, JSON.stringify(record)] as const);
    await this.#ask({ do: 'write', puts: texts, deletes, nextId });
  }

  async close(): Promise<void> {
    const worker = this.#worker;
    if (worker === undefined) return;
    const ended = once(worker, 'exit');
    await this.#ask({ do: 'close' });
    await ended;
  }

  async #ask(
    request: StoreRequest,
    advice = '',
  ): Promise<Exclude<StoreAnswer, { readonly error: string }>> {
    const worker = this.#worker;
    if (worker === undefined) throw this.#error('it is not open');
    const answer = await new Promise<StoreAnswer>((resolve, reject) => {
      const onMessage = (message: StoreAnswer): void => end(() => resolve(message));
      const onError = (error: Error): void => end(() => reject(this.#error(error.message, error)));
      const onExit = (): void => end(() => reject(this.#error('its thread has ended')));
      const end = (settle: () => void): void => {
        worker.off('message', onMessage).off('error', onError).off('exit', onExit);
        // Only a request that waits keeps the process alive.
        worker.unref();
        settle();
      };
      worker.on('message', onMessage).on('error', onError).on('exit', onExit);
      worker.ref();
      worker.postMessage(request);
    });
    if ('error' in answer) throw this.#error(answer.error + advice);
    return answer;
  }

  #error(why: string, cause?: Error): SnapshotError {
    const what = `the metadata of snapshots in ${this.#path} cannot be used: ${why}`;
    return new SnapshotError(what, { code: 'metadata' }, { cause });
  }
}
