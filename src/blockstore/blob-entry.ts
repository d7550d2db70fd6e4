import type { BlockIndex } from '../image/block.ts';
import { DONE, type BlobFiles } from './blob-files.ts';

/** The latest change of a block in flight. Changes of one block run one after another. */
export interface Change {
  readonly kind: 'put' | 'drop';
  readonly done: Promise<void>;
}

/** A blob in a store, with what is in flight on it. */
export class BlobEntry {
  readonly files: BlobFiles;
  /** Removals of its files in flight: a new entry would work on the same files. */
  removals = 0;
  /** The last removal of what was empty. Never rejects. */
  removing = DONE;
  /** Undefined without a change in flight: a store has many thousands of blobs at rest. */
  #changes: Map<BlockIndex, Change> | undefined;

  constructor(files: BlobFiles) {
    this.files = files;
  }

  /** Blocks with a change in flight. */
  changing(): Iterable<BlockIndex> {
    return this.#changes?.keys() ?? [];
  }

  latest(index: BlockIndex): Change | undefined {
    return this.#changes?.get(index);
  }

  begin(index: BlockIndex, change: Change): void {
    this.#changes ??= new Map();
    this.#changes.set(index, change);
  }

  /** The change is over; a later one of the block stays. */
  end(index: BlockIndex, change: Change): void {
    if (this.latest(index) === change) this.#changes?.delete(index);
    if (this.#changes?.size === 0) this.#changes = undefined;
  }
}
