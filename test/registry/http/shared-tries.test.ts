import { expect, test } from 'vitest';
import { RegistryError } from '../../../src/registry/errors.ts';
import { SharedTries } from '../../../src/registry/http/shared-tries.ts';
import type { OperationLimits } from '../../../src/registry/http/retry.ts';
import { registryMetrics } from '../../../src/registry/metrics.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import type { Random } from '../../../src/runtime/random.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

/** Lets what is due in promises run. */
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

const random: Random = { float: () => 0.999_999, below: () => 0, bytes: (n) => new Uint8Array(n) };

const away = new RegistryError('status 503', { code: 'unavailable', status: 503 });

class Rig {
  readonly clock = new ManualClock();
  readonly tries = new SharedTries({
    ...{ clock: this.clock, random },
    metrics: registryMetrics(silentMetrics),
  });
  /** When attempts were made. */
  readonly madeMs: number[] = [];
  /** What the server says now: undefined is a success. */
  fails: RegistryError | undefined = away;

  run(limits: Partial<OperationLimits> = {}): Promise<unknown> {
    const { signal } = new AbortController();
    const all = { signal, deadlineMs: 1_000_000, attemptsMax: 5, ...limits };
    const run = this.tries.run('blob', all, async () => {
      this.madeMs.push(this.clock.nowMs());
      if (this.fails !== undefined) throw this.fails;
      return 'given';
    });
    return run.catch((error: unknown) => error);
  }

  /** Lets so much time pass, 50 ms at a time. */
  async pass(ms: number): Promise<void> {
    for (let at = 0; at < ms; at += 50) {
      await settled();
      this.clock.advance(50);
    }
    await settled();
  }
}

test('all that want a blob share five tries, and fail together', async () => {
  const rig = new Rig();
  const runs = Array.from({ length: 10 }, () => rig.run());
  await rig.pass(200);
  // Ten had left before the first failure; then one at a time.
  expect(rig.madeMs).toEqual([...Array.from({ length: 10 }, () => 0), 200]);
  await rig.pass(5_000);
  expect(rig.madeMs.slice(10)).toEqual([200, 600, 1400, 3000]);
  expect(await Promise.all(runs)).toEqual(Array.from({ length: 10 }, () => away));
});

test('what has failed is left alone, for longer each time, with one try after that', async () => {
  const rig = new Rig();
  const first = rig.run();
  await rig.pass(3_000);
  expect(await first).toBe(away);
  const restMs: number[] = [];
  for (let ms = 0; ms < 26_000; ms += 250) {
    const before = rig.madeMs.length;
    const runs = [rig.run(), rig.run()];
    await rig.pass(250);
    expect(await Promise.all(runs)).toEqual([away, away]);
    if (rig.madeMs.length > before) restMs.push(rig.clock.nowMs());
    expect(rig.madeMs.length - before).toBeLessThanOrEqual(1);
  }
  const gaps = restMs.slice(1).map((atMs, i) => atMs - (restMs[i] ?? 0));
  expect(gaps).toEqual([2_000, 4_000, 8_000, 8_000]);
});

test('a success is one for all that wait', async () => {
  const rig = new Rig();
  const runs = Array.from({ length: 10 }, () => rig.run());
  await settled();
  rig.fails = undefined;
  await rig.pass(300);
  expect(await Promise.all(runs)).toEqual(Array.from({ length: 10 }, () => 'given'));
  expect(await rig.run()).toBe('given');
});

test('the one that tries may leave: another tries in its place', async () => {
  const rig = new Rig();
  const abort = new AbortController();
  await Promise.all([rig.run({ attemptsMax: 1 })]);
  rig.fails = undefined;
  const gone = rig.run({ signal: abort.signal });
  const other = rig.run();
  abort.abort(new Error('gone'));
  await rig.pass(300);
  expect(await gone).toMatchObject({ message: 'gone' });
  expect(await other).toBe('given');
});

test('nobody waits beyond a deadline, or for a server that wants an hour', async () => {
  const rig = new Rig();
  expect(await rig.run({ deadlineMs: 100 })).toBe(away);
  const spent = new RegistryError('429', { code: 'rate-limited', retryAfterMs: 3_600_000 });
  rig.fails = spent;
  await rig.pass(1000);
  expect(await rig.run()).toBe(spent);
  expect(rig.madeMs).toHaveLength(2);
});
