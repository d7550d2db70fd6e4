import type { BlockIndex } from '../../image/block.ts';
import type { ReadKind } from '../contracts/blob-reader.ts';
import { keyOf, type BlobState, type Fetch } from './core-types.ts';

/** A fetch that has asked nobody yet. */
export function makeFetch<T>(
  blob: BlobState<T>,
  index: BlockIndex,
  how: {
    readonly kind: ReadKind;
    readonly hops: number;
    /** The store has the block. */
    readonly held: boolean;
    /** The prefetcher wants it. */
    readonly wanted: boolean;
  },
): Fetch<T> {
  const { kind, hops, held, wanted } = how;
  return {
    blob,
    index,
    key: keyOf(blob, index),
    kind,
    stage: held ? 'disk' : 'network',
    hops,
    waiters: [],
    attempts: [],
    tried: new Set(),
    withoutWay: new Set(),
    rounds: 0,
    originLate: 0,
    wanted,
    retry: undefined,
  };
}
