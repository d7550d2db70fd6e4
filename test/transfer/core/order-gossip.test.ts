import { describe, expect, it } from 'vitest';
import { BLOCK_SIZE_BYTES, blockIndex } from '../../../src/image/block.ts';
import type { BlobState, TimerAction } from '../../../src/transfer/core/core-types.ts';
import type { Effect } from '../../../src/transfer/core/effects.ts';
import { OrderGossip } from '../../../src/transfer/core/order-gossip.ts';
import { peerId } from '../../../src/util/peer-id.ts';
import { SmallMap } from '../../../src/util/small-map.ts';
import { SmallSet } from '../../../src/util/small-set.ts';
import { TimerHeap } from '../../../src/util/timer-heap.ts';
import { digestOf } from '../../kit/registry-content.ts';

const STRIPES = 2;
const ORDER_DELAY_MS = 50;
const at = (...indices: number[]) => indices.map((index) => blockIndex(index));

/** The gossip of a host that keeps these stripes, over a blob of 100 blocks in two stripes. */
function gossipOf(keeps: readonly number[]) {
  const effects: Effect<never, never>[] = [];
  const timers = new TimerHeap<TimerAction<never>>();
  const gossip = new OrderGossip<never, never>({
    init: { orderDelayMs: ORDER_DELAY_MS } as never,
    routes: { keeps: (_digest: unknown, stripe: number) => keeps.includes(stripe) } as never,
    timers,
    emit: (effect: Effect<never, never>) => void effects.push(effect),
  });
  const blob: BlobState<never> = {
    ref: { digest: digestOf(new Uint8Array()), sizeBytes: 100 * BLOCK_SIZE_BYTES },
    id: 0,
    stripes: STRIPES,
    fetches: new SmallMap(),
    ordered: new SmallSet(),
    children: [new SmallSet(), new SmallSet()],
    untold: [],
    uses: 0,
    confirmed: false,
    ownWay: false,
    cachedKeys: new SmallSet(),
    ordersOf: new SmallMap(),
    touchedOnce: undefined,
  };
  const touched = () => effects.flatMap((each) => (each.type === 'touched' ? [each.index] : []));
  const told = () =>
    effects.flatMap((each) => (each.type === 'order' ? [[each.peer, ...each.order.indices]] : []));
  return { gossip, blob, timers, touched, told };
}

describe('OrderGossip', () => {
  it('OrderGossip.noteTouch() counts the first touch of a block at the keeper', () => {
    const { gossip, blob, touched } = gossipOf([0]);
    for (const index of at(4, 5, 4, 2)) gossip.noteTouch({ blob, index, by: undefined }, 0);
    expect(touched()).toEqual([4, 2]);
    expect([...blob.ordered]).toEqual([4, 2]);
  });

  it('OrderGossip.learn() returns the blocks that are new and exist', () => {
    const { gossip, blob } = gossipOf([]);
    expect(gossip.learn(blob, at(3, 1, 100), 0)).toEqual([3, 1]);
    expect(gossip.learn(blob, at(1, 7), 0)).toEqual([7]);
  });

  it('OrderGossip.learn() sets one timer for all blocks that wait to be told', () => {
    const { gossip, blob, timers } = gossipOf([]);
    gossip.learn(blob, at(1), 10);
    gossip.learn(blob, at(2), 20);
    expect(timers.nextMs).toBe(10 + ORDER_DELAY_MS);
    expect(blob.untold).toEqual([1, 2]);
  });

  it('OrderGossip.tell() tells each child its stripe, once, in the order of touches', () => {
    const { gossip, blob, told } = gossipOf([]);
    gossip.addChild(blob, blockIndex(8), peerId('even'));
    gossip.addChild(blob, blockIndex(9), peerId('odd'));
    gossip.learn(blob, at(6, 3, 0, 1), 0);
    gossip.tell(blob);
    expect(told()).toEqual([
      ['even', 6, 0],
      ['odd', 3, 1],
    ]);
    gossip.tell(blob);
    expect(told()).toHaveLength(2);
  });

  it('OrderGossip.addChild() keeps at most 256 children of a stripe', () => {
    const { gossip, blob } = gossipOf([]);
    for (let i = 0; i < 300; i++) gossip.addChild(blob, blockIndex(0), peerId(`p${i}`));
    expect(blob.children[0]?.size).toBe(256);
  });
});
