import { describe, expect, it } from 'vitest';
import { EventHeap } from '../../src/sim/event-heap.ts';
import { Processors } from '../../src/sim/processors.ts';
import { spreadOf } from '../../src/sim/quantiles.ts';
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

  it('EventHeap sorts more events than it has room for at the start', () => {
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

describe('Processors', () => {
  it('Processors runs up to as many containers as vCPUs at full speed', () => {
    const cpus = new Processors<string>({ count: 2 });
    cpus.start(0, 'a', 10);
    cpus.start(0, 'b', 30);
    expect(cpus.nextDoneMs).toBe(10);
    expect(cpus.takeDone(10)).toBe('a');
    expect(cpus.takeDone(10)).toBeUndefined();
    expect(cpus.nextDoneMs).toBe(30);
  });

  it('Processors shares: three bursts of 10 ms on two vCPUs take 15 ms', () => {
    const cpus = new Processors<string>({ count: 2 });
    for (const job of ['a', 'b', 'c']) cpus.start(0, job, 10);
    expect(cpus.nextDoneMs).toBeCloseTo(15);
    expect([cpus.takeDone(15), cpus.takeDone(15), cpus.takeDone(15)]).toEqual(['a', 'b', 'c']);
  });

  it('Processors gives a latecomer its share only from its start on', () => {
    // One vCPU: a alone for 4 ms, then both at half speed until a has its 10 at 16, then b alone for 4 more.
    const cpus = new Processors<string>({ count: 1 });
    cpus.start(0, 'a', 10);
    cpus.start(4, 'b', 10);
    expect(cpus.nextDoneMs).toBeCloseTo(16);
    expect(cpus.takeDone(16)).toBe('a');
    expect(cpus.nextDoneMs).toBeCloseTo(20);
  });

  it('Processors.runAgent() takes its work from the containers when no vCPU is idle', () => {
    // 4 containers of 10 ms on 2 vCPUs are 20 ms; with 6 ms of the agent in it 46 ms of CPU, on 2 vCPUs 23 ms.
    const cpus = new Processors<number>({ count: 2 });
    for (let job = 0; job < 4; job++) cpus.start(0, job, 10);
    expect(cpus.runAgent(0, 6)).toBe(6);
    expect(cpus.nextDoneMs).toBeCloseTo(23);
  });

  it('Processors.runAgent() takes nothing when a vCPU is idle, and does one job after the other', () => {
    const cpus = new Processors<string>({ count: 2 });
    cpus.start(0, 'a', 10);
    expect(cpus.runAgent(0, 6)).toBe(6);
    expect(cpus.runAgent(1, 3)).toBe(9);
    expect(cpus.runAgent(20, 3)).toBe(23);
    expect(cpus.nextDoneMs).toBe(20);
    expect(cpus.takeDone(20)).toBe('a');
  });

  it('Processors.clear() ends what runs', () => {
    const cpus = new Processors<string>({ count: 1 });
    cpus.start(0, 'a', 10);
    cpus.clear(5);
    expect(cpus.nextDoneMs).toBeUndefined();
    expect(cpus.runnable).toBe(0);
  });
});

describe('SeededRandom', () => {
  it('SeededRandom gives the same numbers for the same name, and others for another', () => {
    const draw = (name: string): number[] => {
      const random = new SeededRandom(name);
      return Array.from({ length: 5 }, () => random.float());
    };
    expect(draw('a')).toEqual(draw('a'));
    expect(draw('a')).not.toEqual(draw('b'));
  });

  it('SeededRandom.split() is not moved by draws from its origin', () => {
    const one = new SeededRandom('a');
    const other = new SeededRandom('a');
    other.float();
    expect(one.split('x').float()).toBe(other.split('x').float());
  });

  it('SeededRandom.below() is even', () => {
    const random = new SeededRandom('even');
    const counts = [0, 0, 0, 0];
    for (let i = 0; i < 40_000; i++) counts[random.below(4)]!++;
    for (const count of counts) expect(Math.abs(count - 10_000)).toBeLessThan(400);
  });
});

describe('spreadOf', () => {
  it('spreadOf() takes nearest ranks', () => {
    const spread = spreadOf(Array.from({ length: 1000 }, (_, i) => 1000 - i));
    expect(spread).toEqual({ count: 1000, p50: 500, p99: 990, p999: 999, max: 1000 });
    expect(spreadOf([]).p999).toBe(0);
  });
});
