import type { Catalog, Change } from '../catalog/catalog.ts';
import { assert } from '../../util/assert.ts';
import type { RecordStore } from './record-store.ts';

/** Most changes in one write: some hundred KB. */
const BATCH_MAX = 256;

interface Entry {
  readonly change: Change;
  readonly settle: PromiseWithResolvers<void>;
}

/**
 * Makes changes of a catalog durable. A change holds in the catalog at once, so that the next
 * operation sees it; changes that come during a write go together into the next one. When a write
 * fails, all changes that are not written are undone, the last one first, and all of them reject.
 */
export class Ledger {
  readonly #catalog: Catalog;
  readonly #store: RecordStore;
  #waiting: Entry[] = [];
  #writing: readonly Entry[] = [];
  #isRunning = false;

  constructor(components: { catalog: Catalog; store: RecordStore }) {
    this.#catalog = components.catalog;
    this.#store = components.store;
  }

  /** Changes the catalog now. Resolves once that is durable; else rejects, and it is undone. */
  apply(change: Change): Promise<void> {
    this.#catalog.apply(change);
    const entry = { change, settle: Promise.withResolvers<void>() };
    this.#waiting.push(entry);
    if (!this.#isRunning) void this.#run();
    return entry.settle.promise;
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    while (this.#waiting.length > 0) {
      this.#writing = this.#waiting.splice(0, BATCH_MAX);
      try {
        await this.#store.write(batchOf(this.#writing, this.#catalog.nextId));
        for (const { settle } of this.#writing) settle.resolve();
      } catch (error) {
        const undone = [...this.#writing, ...this.#waiting].reverse();
        this.#waiting = [];
        for (const { change } of undone) this.#catalog.revert(change);
        for (const { settle } of undone) settle.reject(error);
      }
    }
    this.#writing = [];
    this.#isRunning = false;
  }
}

/** What a row of changes leaves. */
function batchOf(entries: readonly Entry[], nextId: number) {
  const last = new Map<number, Change['after']>();
  for (const { change } of entries) {
    const id = (change.after ?? change.before)?.id;
    assert(id !== undefined, 'a change is of a record');
    last.set(id, change.after);
  }
  const puts = [...last.values()].filter((record) => record !== undefined);
  const deletes = [...last].flatMap(([id, record]) => (record === undefined ? [id] : []));
  return { puts, deletes, nextId };
}
