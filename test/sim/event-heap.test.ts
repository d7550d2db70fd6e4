import { describe, expect, it } from 'vitest';
import { EventHeap } from '../../src/sim/event-heap.ts';
import { SeededRandom } from '../../src/sim/seeded-random.ts';

describe('EventHeap', () => {
  it('EventHeap.pop() gives events by time, and equal times in the order of scheduling', () => {
    const heap = new EventHeap<string>();
    heap.push(2, 'c');
    heap.push(1, 'a');
    heap.push(2, 'd');
    heap.push(1, 'b');
    heap.push(3, 'e');
    const popped: (string | undefined)[] = [];
    while (heap.count > 0) popped.push(heap.pop());
    expect(popped).toEqual(['a', 'b', 'c', 'd', 'e']);
    expect(heap.pop()).toBeUndefined();
    expect(heap.nextMs).toBeUndefined();
  });

  it('EventHeap sorts more events than its initial capacity', () => {
    const random = new SeededRandom('heap');
    const heap = new EventHeap<{ atMs: number; order: number }>();
    for (let order = 0; order < 5000; order++) {
      const atMs = random.below(200);
      heap.push(atMs, { atMs, order });
    }
    const popped = Array.from({ length: 5000 }, () => heap.pop()!);
    const sorted = popped.toSorted((a, b) => a.atMs - b.atMs || a.order - b.order);
    expect(popped).toEqual(sorted);
  });
});
