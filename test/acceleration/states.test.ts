import { describe, expect, it } from 'vitest';
import { AccelerationStates, type Effect, type Outcome } from '../../src/acceleration/states.ts';
import type { BlockImage } from '../../src/acceleration/messages.ts';
import { parseDigest, type Digest } from '../../src/image/digest.ts';
import { SeededRandom } from '../../src/sim/seeded-random.ts';
import { defined } from '../../src/util/assert.ts';

const APP = 'registry.example/team/app:1';
const WATCH_MS = 300_000;
const [V1, V2] = [digestOf(1), digestOf(2)];
const DOWN = { kind: 'registry', reason: 'registry.example cannot be reached' } as const;
const FULL = { kind: 'disk', reason: 'the disk is full' } as const;

function digestOf(n: number): Digest {
  return defined(parseDigest(`sha256:${n.toString(16).padStart(64, '0')}`), 'a digest');
}

function blocksOf(sourceDigest: Digest): readonly BlockImage[] {
  const digest = digestOf(Number.parseInt(sourceDigest.slice(-8), 16) + 1000);
  return [{ platform: 'linux/amd64', sourceDigest, digest }];
}

const done = <T>(value: T): Outcome<T> => ({ outcome: 'done', value });
const made = (images: readonly BlockImage[]) => done({ images, layerTags: ['xylem-layer-1'] });
const there = (sourceDigest: Digest) => done({ sourceDigest, isThere: true });
const failed = (failure: typeof DOWN | typeof FULL) => ({ outcome: 'failed', failure }) as const;

function make(concurrent = 1): AccelerationStates {
  return new AccelerationStates({ random: { float: () => 1 } }, { concurrent, watchMs: WATCH_MS });
}

const kinds = (effects: readonly Effect[]): readonly string[] =>
  effects.map((effect) => effect.kind);

function turnOf(effects: readonly Effect[], kind: Effect['kind'], image = APP): number {
  const found = effects.find(
    (each) => each.kind === kind && 'image' in each && each.image === image,
  );
  if (found === undefined || !('turn' in found)) throw new Error(`no ${kind} of ${image}`);
  return found.turn;
}

/** Brings the image to Ready at `nowMs`. */
function makeReady(states: AccelerationStates, version: Digest, nowMs: number, image = APP): void {
  const begun = [...states.accelerate(image, nowMs), ...states.advance(nowMs)];
  const found = states.looked(image, turnOf(begun, 'look', image), there(version), nowMs);
  const turn = turnOf(found, 'convert', image);
  states.converted(image, turn, made(blocksOf(version)), nowMs);
}

describe('AccelerationStates', () => {
  it('goes from Preparing to Ready by a look and a conversion', () => {
    const states = make();
    const begun = states.accelerate(APP, 1000);
    expect(kinds(begun)).toEqual(['save', 'look']);
    expect(states.get(APP)).toMatchObject({ state: 'Preparing', requestedMs: 1000, failures: 0 });
    const found = states.looked(APP, turnOf(begun, 'look'), there(V1), 2000);
    expect(found).toContainEqual(expect.objectContaining({ kind: 'convert', sourceDigest: V1 }));
    const turn = turnOf(found, 'convert');
    states.progressed(APP, turn, { step: 'layer 1 of 2', doneBytes: 3, totalBytes: 9 });
    expect(states.get(APP)).toMatchObject({
      ...{ state: 'Preparing', startedMs: 2000, sourceDigest: V1 },
      progress: { step: 'layer 1 of 2', doneBytes: 3, totalBytes: 9 },
    });
    states.converted(APP, turn, made(blocksOf(V1)), 9000);
    const ready = { sourceDigest: V1, images: blocksOf(V1), readyMs: 9000, seconds: 7 };
    expect(states.get(APP)).toMatchObject({ state: 'Ready', ready, finishedMs: 9000 });
    expect(states.get(APP)?.progress).toBeUndefined();
    expect(states.nextMs()).toBe(9000 + WATCH_MS);
  });

  it('repeats what failed, after twice the time each time, up to an hour', () => {
    const states = make();
    let effects = states.accelerate(APP, 0);
    let nowMs = 0;
    const waits: number[] = [];
    for (let i = 0; i < 10; i++) {
      states.looked(APP, turnOf(effects, 'look'), failed(DOWN), nowMs);
      expect(states.get(APP)).toMatchObject({ state: 'Failed', failure: DOWN, failures: i + 1 });
      const nextMs = defined(states.nextMs(), 'it is repeated');
      waits.push((nextMs - nowMs) / 1000);
      expect(states.advance(nextMs - 1)).toEqual([]);
      nowMs = nextMs;
      effects = states.advance(nowMs);
    }
    expect(waits).toEqual([30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
  });

  it('repeats a conversion that failed, with the reason told until then', () => {
    const states = make();
    const found = states.looked(APP, turnOf(states.accelerate(APP, 0), 'look'), there(V1), 0);
    states.converted(APP, turnOf(found, 'convert'), failed(FULL), 5000);
    expect(states.get(APP)).toMatchObject({ state: 'Failed', failure: FULL, finishedMs: 5000 });
    const again = states.advance(35_000);
    const next = states.looked(APP, turnOf(again, 'look'), there(V1), 35_000);
    expect(states.get(APP)).toMatchObject({ state: 'Preparing', failures: 1 });
    states.converted(APP, turnOf(next, 'convert'), made(blocksOf(V1)), 40_000);
    expect(states.get(APP)).toMatchObject({ state: 'Ready', failures: 0 });
    expect(states.get(APP)?.failure).toBeUndefined();
  });

  it('repeats at once what failed when it is asked for again', () => {
    const states = make();
    states.looked(APP, turnOf(states.accelerate(APP, 0), 'look'), failed(DOWN), 0);
    expect(kinds(states.accelerate(APP, 1))).toEqual(['save', 'look']);
    expect(states.get(APP)).toMatchObject({ state: 'Preparing', failures: 0 });
    expect(states.accelerate(APP, 2), 'it is in flight').toEqual([]);
  });

  it('converts a tag anew that moved, and keeps the old version until the new one is ready', () => {
    const states = make();
    makeReady(states, V1, 0);
    const unmoved = states.advance(WATCH_MS);
    expect(states.looked(APP, turnOf(unmoved, 'look'), there(V1), WATCH_MS)).toEqual([]);
    const moved = states.advance(2 * WATCH_MS);
    const found = states.looked(APP, turnOf(moved, 'look'), there(V2), 2 * WATCH_MS);
    const old = { ready: { sourceDigest: V1, images: blocksOf(V1) } };
    expect(states.get(APP)).toMatchObject({ state: 'Preparing', sourceDigest: V2, ...old });
    states.converted(APP, turnOf(found, 'convert'), failed(FULL), 2 * WATCH_MS);
    expect(states.get(APP)).toMatchObject({ state: 'Failed', sourceDigest: V2, ...old });
    const again = states.advance(3 * WATCH_MS);
    const next = states.looked(APP, turnOf(again, 'look'), there(V2), 3 * WATCH_MS);
    states.converted(APP, turnOf(next, 'convert'), made(blocksOf(V2)), 3 * WATCH_MS);
    expect(states.get(APP)).toMatchObject({ state: 'Ready', ready: { sourceDigest: V2 } });
  });

  it('makes anew what the registry has lost', () => {
    const states = make();
    makeReady(states, V1, 0);
    const look = states.advance(WATCH_MS);
    expect(look).toContainEqual(
      expect.objectContaining({ kind: 'look', ready: states.get(APP)?.ready }),
    );
    const lost = done({ sourceDigest: V1, isThere: false });
    const found = states.looked(APP, turnOf(look, 'look'), lost, WATCH_MS);
    expect(states.get(APP)).toMatchObject({ state: 'Preparing', lookedMs: WATCH_MS });
    states.converted(APP, turnOf(found, 'convert'), made(blocksOf(V1)), WATCH_MS + 1);
    expect(states.get(APP)).toMatchObject({ state: 'Ready', ready: { readyMs: WATCH_MS + 1 } });
  });

  it('stays Ready while the registry is away, but not when the image is gone', () => {
    const states = make();
    makeReady(states, V1, 0);
    const first = states.advance(WATCH_MS);
    states.looked(APP, turnOf(first, 'look'), failed(DOWN), WATCH_MS);
    expect(states.get(APP)).toMatchObject({ state: 'Ready', failure: DOWN });
    const later = 2 * WATCH_MS;
    const second = states.advance(later);
    const gone = { kind: 'reference', reason: 'it has no such tag' } as const;
    states.looked(APP, turnOf(second, 'look'), { outcome: 'failed', failure: gone }, later);
    expect(states.get(APP)).toMatchObject({ state: 'Failed', failure: gone });
  });

  it('runs no more conversions than it may, in arrival order', () => {
    const states = make(2);
    const images = [1, 2, 3, 4].map((n) => `registry.example/team/app${n}:1`);
    const looks = images.flatMap((image) => states.accelerate(image, 0));
    const found = images.flatMap((image) =>
      states.looked(image, turnOf(looks, 'look', image), there(V1), 0),
    );
    expect(found.filter(({ kind }) => kind === 'convert')).toHaveLength(2);
    expect(states.running).toBe(2);
    const [first = '', , third = ''] = images;
    const next = states.converted(first, turnOf(found, 'convert', first), failed(FULL), 1);
    expect(turnOf(next, 'convert', third)).toBeGreaterThan(0);
    expect(states.running).toBe(2);
  });

  it('removes what was made when it is stopped, and forgets the image then', () => {
    const states = make();
    makeReady(states, V1, 0);
    const stopped = states.stop(APP, 5);
    expect(stopped).toContainEqual(
      expect.objectContaining({ kind: 'remove', image: APP, images: blocksOf(V1) }),
    );
    expect(states.get(APP)?.accelerationType).toBe('None');
    states.removed(APP, turnOf(stopped, 'remove'), failed(DOWN), 5);
    expect(states.get(APP)).toMatchObject({ accelerationType: 'None', failure: DOWN });
    const asked = states.stop(APP, 6);
    expect(kinds(asked), 'asked for again').toEqual(['save', 'remove']);
    expect(states.stop(APP, 7), 'it is in flight').toEqual([]);
    states.removed(APP, turnOf(asked, 'remove'), failed(DOWN), 7);
    const again = states.advance(100_000);
    states.removed(APP, turnOf(again, 'remove'), done(undefined), 100_000);
    expect(states.list()).toEqual([]);
    expect(states.nextMs()).toBeUndefined();
  });

  it('knows what nobody is to be given while the registry still lists it', () => {
    const states = make();
    const other = 'registry.example/team/app:latest';
    makeReady(states, V1, 0);
    makeReady(states, V1, 0, other);
    makeReady(states, V2, 0, 'registry.example/team/app:2');
    const [{ digest } = { digest: V2 }] = blocksOf(V1);
    expect(states.isRemoved(digest)).toBe(false);
    states.stop(APP, 1);
    expect(states.isRemoved(digest), 'another tag stands for it').toBe(false);
    const stopped = states.stop(other, 2);
    expect(states.isRemoved(digest)).toBe(true);
    states.removed(other, turnOf(stopped, 'remove', other), failed(DOWN), 3);
    expect(states.isRemoved(digest)).toBe(true);
    expect(states.isRemoved(blocksOf(V2)[0]?.digest ?? V1)).toBe(false);
  });

  it('cancels the conversion of an image that is stopped, and ignores what it came to', () => {
    const states = make();
    const found = states.looked(APP, turnOf(states.accelerate(APP, 0), 'look'), there(V1), 0);
    const turn = turnOf(found, 'convert');
    const stopped = states.stop(APP, 1);
    expect(turnOf(stopped, 'cancel')).toBe(turn);
    expect(states.list(), 'nothing was made').toEqual([]);
    expect(states.converted(APP, turn, made(blocksOf(V1)), 2)).toEqual([]);
    expect(states.list()).toEqual([]);
  });

  it('removes nothing that another tag of the same image stands for too', () => {
    const states = make();
    const other = 'registry.example/team/app:latest';
    makeReady(states, V1, 0);
    makeReady(states, V1, 0, other);
    expect(kinds(states.stop(APP, 5))).toEqual(['save', 'save']);
    expect(states.list().map(({ image }) => image)).toEqual([other]);
    expect(kinds(states.stop(other, 6))).toEqual(['save', 'remove']);
  });

  it('begins anew after a restart in the middle, and waits on where it waited', () => {
    const before = make();
    const found = before.looked(APP, turnOf(before.accelerate(APP, 0), 'look'), there(V1), 0);
    expect(turnOf(found, 'convert')).toBeGreaterThan(0);
    const idle = 'registry.example/team/idle:1';
    const quiet = make();
    makeReady(quiet, V2, 0, idle);
    const states = make();
    const records = JSON.parse(JSON.stringify([...before.records(), ...quiet.records()]));
    const effects = states.load(records, 1000);
    expect(kinds(effects)).toEqual(['look']);
    expect(turnOf(effects, 'look', APP)).toBeGreaterThan(0);
    expect(states.get(idle)).toMatchObject({ state: 'Ready', nextMs: WATCH_MS });
    expect(states.get(APP)).toMatchObject({ state: 'Preparing', requestedMs: 0 });
  });

  it('waits no longer than it ever does when the clock was set back', () => {
    const states = make();
    makeReady(states, V1, 1e12);
    const back = make();
    back.load(states.records(), 0);
    expect(back.nextMs()).toBe(3_600_000);
  });

  it('takes no more images than it can watch', () => {
    const states = make();
    for (let n = 0; n < 4096; n++) states.accelerate(`registry.example/app:${n}`, 0);
    expect(() => states.accelerate(APP, 0)).toThrow(/the maximum/);
    expect(states.stop('registry.example/app:4095', 0).length).toBeGreaterThan(0);
    states.accelerate(APP, 0);
    expect(states.get(APP)?.state).toBe('Preparing');
  });

  it.each([1, 2, 3, 4, 5, 6, 7, 8])('ends with all images Ready or gone, seed %i', (seed) => {
    const random = new SeededRandom(`acceleration ${seed}`);
    const images = ['a:1', 'a:2', 'b:1', 'c:1', 'd:1'].map((name) => `registry.example/${name}`);
    const versions = new Map(images.map((image) => [image, V1]));
    let states = make(2);
    let nowMs = 0;
    const open: Effect[] = [];
    const put = (effects: readonly Effect[]): void => {
      for (const effect of effects) {
        if (effect.kind === 'save') continue;
        if (effect.kind !== 'cancel') open.push(effect);
      }
      expect(states.running).toBeLessThanOrEqual(2);
    };
    const answer = (effect: Effect, isBad: boolean): void => {
      if (effect.kind === 'save' || effect.kind === 'cancel') return;
      const { image, turn } = effect;
      const version = versions.get(image) ?? V1;
      if (effect.kind === 'look') {
        put(states.looked(image, turn, isBad ? failed(DOWN) : there(version), nowMs));
      } else if (effect.kind === 'remove') {
        put(states.removed(image, turn, isBad ? failed(DOWN) : done(undefined), nowMs));
      } else if (effect.kind === 'convert') {
        const value = made(blocksOf(effect.sourceDigest));
        put(states.converted(image, turn, isBad ? failed(FULL) : value, nowMs));
      }
    };
    for (let step = 0; step < 400; step++) {
      nowMs += random.below(60_000);
      const image = defined(images[random.below(images.length)], 'an image');
      const choice = random.below(12);
      if (choice === 0) put(states.accelerate(image, nowMs));
      else if (choice === 1) put(states.stop(image, nowMs));
      else if (choice === 2) versions.set(image, random.below(2) === 0 ? V1 : V2);
      else if (choice === 3 && random.below(4) === 0) {
        const records = JSON.parse(JSON.stringify(states.records()));
        states = make(2);
        open.length = 0;
        put(states.load(records, nowMs));
      } else if (open.length > 0) {
        const [effect] = open.splice(random.below(open.length), 1);
        if (effect !== undefined) answer(effect, random.below(3) === 0);
      }
      put(states.advance(nowMs));
    }
    for (let rounds = 0; rounds < 50; rounds++) {
      for (let effect = open.shift(); effect !== undefined; effect = open.shift()) {
        answer(effect, false);
      }
      nowMs += 2 * WATCH_MS + 3_600_000;
      put(states.advance(nowMs));
    }
    for (const effect of open.splice(0)) answer(effect, false);
    for (const { image, state, ready, accelerationType } of states.list()) {
      expect({ image, state, accelerationType }).toEqual({
        ...{ image, state: 'Ready', accelerationType: 'Default' },
      });
      expect(ready?.sourceDigest).toBe(versions.get(image));
    }
  });
});
