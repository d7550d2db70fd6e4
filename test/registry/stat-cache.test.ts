import { expect, test } from 'vitest';
import { StatCache } from '../../src/registry/stat-cache.ts';
import { OriginError } from '../../src/transfer/contracts/origin.ts';
import type { BlobStat } from '../../src/transfer/contracts/origin.ts';
import { ManualClock } from '../kit/manual-clock.ts';
import { DIGEST } from '../kit/twins.ts';

const ORIGIN = { registry: 'r.example', repository: 'app' };
const REPLY: BlobStat = { sizeBytes: 5, isPublic: true };
const { signal } = new AbortController();

function makeCache(answers: (() => Promise<BlobStat>)[]) {
  const clock = new ManualClock();
  const asked = { count: 0 };
  const cache = new StatCache({ clock }, () => {
    asked.count++;
    return answers.shift()?.() ?? Promise.reject(new Error('nothing left'));
  });
  return { clock, asked, stat: () => cache.stat(DIGEST, ORIGIN, signal) };
}

test('StatCache.stat() asks once for all, and again after minutes', async () => {
  const { clock, asked, stat } = makeCache([async () => REPLY, async () => REPLY]);
  expect(await Promise.all([stat(), stat()])).toEqual([REPLY, REPLY]);
  expect(await stat()).toEqual(REPLY);
  expect(asked.count).toBe(1);
  clock.advance(300_000);
  await stat();
  expect(asked.count).toBe(2);
});

test('StatCache.stat() keeps the older answer without a newer, not after not-found', async () => {
  const fails = (code: 'unavailable' | 'not-found') => async (): Promise<BlobStat> => {
    throw new OriginError('no', { code });
  };
  const { clock, stat } = makeCache([
    fails('unavailable'),
    async () => REPLY,
    fails('unavailable'),
    fails('not-found'),
  ]);
  await expect(stat()).rejects.toMatchObject({ code: 'unavailable' });
  await stat();
  clock.advance(300_000);
  expect(await stat()).toEqual(REPLY);
  await expect(stat()).rejects.toMatchObject({ code: 'not-found' });
});
