import { blockCount, blockIndex, type BlockIndex } from '../../image/block.ts';
import type { BlobState } from './core-types.ts';

/**
 * A read of a block is one in order when these blocks right before it were read recently. Random
 * reads of a container hardly ever look so. (tunable)
 */
const BLOCKS_BEFORE = 3;

/**
 * Blocks that were read last, of one blob: a reader with four connections is a little out of order,
 * and others read in between. (tunable)
 */
const RECENT_MAX = 12;

/** Blocks that are brought in ahead of a reader at a time: 4 MiB. (tunable) */
const AHEAD_BLOCKS = 16;

/** Readers of one blob that are told apart: a download in the background, and containers. */
const READERS_MAX = 4;

interface Readers {
  /** The latest one last. */
  recent: readonly BlockIndex[];
  /** Of each reader the last block that was brought in ahead of it; the latest reader first. */
  untils: readonly number[];
}

/** Finds out who reads a blob in order, and what that reader will want next. */
export class ReadAhead<T> {
  readonly #readers = new WeakMap<BlobState<T>, Readers>();

  /** Somebody reads this block: the blocks to bring in now, at most `AHEAD_BLOCKS`. */
  note(blob: BlobState<T>, index: BlockIndex): readonly BlockIndex[] {
    const known = this.#readers.get(blob) ?? { recent: [], untils: [] };
    this.#readers.set(blob, known);
    if (known.recent.at(-1) === index) return [];
    const others = known.recent.filter((each) => each !== index);
    known.recent = [...others, index].slice(-RECENT_MAX);
    for (let i = 1; i <= BLOCKS_BEFORE; i++) {
      if (!others.some((each) => each === index - i)) return [];
    }
    const isAhead = (until: number): boolean =>
      until >= index - BLOCKS_BEFORE && until <= index + 2 * AHEAD_BLOCKS;
    const until = known.untils.find(isAhead) ?? index;
    const first = Math.max(until, index) + 1;
    const isFar = until - index > AHEAD_BLOCKS / 2;
    const last = isFar ? until : Math.min(first + AHEAD_BLOCKS, blockCount(blob.ref.sizeBytes)) - 1;
    const rest = known.untils.filter((each) => each !== until);
    known.untils = [last, ...rest].slice(0, READERS_MAX);
    return Array.from({ length: last + 1 - first }, (_, i) => blockIndex(first + i));
  }
}
