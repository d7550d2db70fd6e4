import { blockIndex, type BlockIndex } from '../../image/block.ts';
import type { BlockRun } from '../../tree/messages.ts';

/** Ascending indices as runs of [first, count]. */
export function runsOf(indices: readonly BlockIndex[]): readonly BlockRun[] {
  const runs: [BlockIndex, number][] = [];
  for (const index of indices) {
    const last = runs.at(-1);
    if (last !== undefined && last[0] + last[1] === index) last[1]++;
    else runs.push([blockIndex(index), 1]);
  }
  return runs;
}
