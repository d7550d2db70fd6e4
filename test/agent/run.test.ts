import { EventEmitter } from 'node:events';
import { describe, expect, it } from 'vitest';
import { runUntilSignal, type Service } from '../../src/agent/run.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { ManualClock } from '../kit/manual-clock.ts';

function stage(service: Partial<Service>) {
  const clock = new ManualClock();
  const events = new EventEmitter();
  const exits: number[] = [];
  const lines: string[] = [];
  const log = (_: unknown, text: string): void => void lines.push(text);
  const code = runUntilSignal(
    { start: async () => {}, stop: async () => {}, ...service },
    {
      clock,
      events,
      exit: (exit) => exits.push(exit),
      logger: { ...silentLogger, info: log, warn: log, error: log },
    },
  );
  return { clock, events, exits, lines, code };
}

describe('runUntilSignal()', () => {
  it.each(['SIGTERM', 'SIGINT'])(
    'reports ready, runs until %s, stops and returns 0',
    async (signal) => {
      const { promise, resolve } = Promise.withResolvers<void>();
      const run = stage({ start: async () => resolve() });
      await promise;
      await Promise.resolve();
      run.events.emit(signal);
      expect(await run.code).toBe(0);
      expect(run.lines).toEqual(['ready', 'stopping', 'stopped']);
      expect(run.exits).toEqual([]);
      expect(run.events.eventNames()).toEqual([]);
    },
  );

  it('stops a service that is still starting', async () => {
    const run = stage({ start: () => new Promise(() => {}) });
    run.events.emit('SIGTERM');
    expect(await run.code).toBe(0);
    expect(run.lines).toEqual(['stopping', 'stopped']);
  });

  it('rejects with the reason when the start fails, after a stop', async () => {
    let stopped = false;
    const run = stage({
      start: async () => {
        throw new Error('no port');
      },
      stop: async () => {
        stopped = true;
      },
    });
    await expect(run.code).rejects.toThrow('no port');
    expect(stopped).toBe(true);
    expect(run.events.eventNames()).toEqual([]);
  });

  it('ends at once at the second signal', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const run = stage({ stop: () => promise });
    run.events.emit('SIGTERM');
    run.events.emit('SIGINT');
    expect(run.exits).toEqual([130]);
    resolve();
    await run.code;
  });

  it('ends at once when the stop takes more than 10 s', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const stopping = Promise.withResolvers<void>();
    const run = stage({
      stop: () => {
        stopping.resolve();
        return promise;
      },
    });
    run.events.emit('SIGTERM');
    await stopping.promise;
    expect(run.clock.delays).toEqual([10_000]);
    run.clock.fireAll();
    expect(run.exits).toEqual([1]);
    resolve();
    await run.code;
  });

  it('ends a process that a leak keeps alive after the stop', async () => {
    const run = stage({});
    run.events.emit('SIGTERM');
    await run.code;
    expect(run.clock.delays).toEqual([2_000]);
    run.clock.fireAll();
    expect(run.lines).toContain('work still in progress after the stop (leak): exiting');
    expect(run.exits).toHaveLength(1);
  });

  it('returns 1 when the stop fails', async () => {
    const run = stage({
      stop: async () => {
        throw new Error('disk');
      },
    });
    run.events.emit('SIGTERM');
    expect(await run.code).toBe(1);
  });

  it('stops with 1 at an uncaught error', async () => {
    const run = stage({});
    run.events.emit('uncaughtException', new Error('defect'));
    expect(await run.code).toBe(1);
    expect(run.lines.at(-1)).toBe('stopped');
  });
});
