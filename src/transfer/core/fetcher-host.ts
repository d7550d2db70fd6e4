import type { Random } from '../../runtime/random.ts';
import type { TimerHeap } from '../../util/timer-heap.ts';
import type { CoreInit, Fetch, PayloadOps, Routes, TimerAction } from './core-types.ts';
import type { OriginNo } from '../contracts/origin.ts';
import type { BlockSource, Effect } from './effects.ts';

/** What the fetcher needs of the reducer around it. */
export interface FetcherHost<P, T> {
  readonly init: CoreInit;
  readonly ops: PayloadOps<P>;
  readonly routes: Routes;
  readonly random: Random;
  readonly timers: TimerHeap<TimerAction<T>>;
  emit(effect: Effect<P, T>): void;
  /** The block is verified; the reference passes to the callee. */
  onBlock(fetch: Fetch<T>, block: P, source: BlockSource): void;
  /**
   * Every source failed, the registry perhaps by a definite no; true when somebody still waits, so
   * that another round starts.
   */
  onRoundFailed(fetch: Fetch<T>, no: OriginNo | undefined): boolean;
}
