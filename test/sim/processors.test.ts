import { describe, expect, it } from 'vitest';
import { Processors } from '../../src/sim/processors.ts';

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

  it('Processors gives a late container its share only from its start on', () => {
    // One vCPU: a runs alone for 4 ms, then both run at half speed until a has its 10 ms at 16,
    // then b runs alone for 4 ms more.
    const cpus = new Processors<string>({ count: 1 });
    cpus.start(0, 'a', 10);
    cpus.start(4, 'b', 10);
    expect(cpus.nextDoneMs).toBeCloseTo(16);
    expect(cpus.takeDone(16)).toBe('a');
    expect(cpus.nextDoneMs).toBeCloseTo(20);
  });

  it('Processors.runAgent() takes CPU time from the containers when no vCPU is idle', () => {
    // 4 containers of 10 ms on 2 vCPUs take 20 ms; with 6 ms of the agent there are 46 ms of CPU,
    // which take 23 ms on 2 vCPUs.
    const cpus = new Processors<number>({ count: 2 });
    for (let job = 0; job < 4; job++) cpus.start(0, job, 10);
    expect(cpus.runAgent(0, 6)).toBe(6);
    expect(cpus.nextDoneMs).toBeCloseTo(23);
  });

  it('Processors.runAgent() costs containers nothing on an idle vCPU, and queues its jobs', () => {
    const cpus = new Processors<string>({ count: 2 });
    cpus.start(0, 'a', 10);
    expect(cpus.runAgent(0, 6)).toBe(6);
    expect(cpus.runAgent(1, 3)).toBe(9);
    expect(cpus.runAgent(20, 3)).toBe(23);
    expect(cpus.nextDoneMs).toBe(20);
    expect(cpus.takeDone(20)).toBe('a');
  });

  it('Processors.clear() ends all bursts', () => {
    const cpus = new Processors<string>({ count: 1 });
    cpus.start(0, 'a', 10);
    cpus.clear(5);
    expect(cpus.nextDoneMs).toBeUndefined();
    expect(cpus.runnable).toBe(0);
  });
});
