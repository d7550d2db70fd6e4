import { describe, expect, it } from 'vitest';
import { Belongings, digestIn, tagIn, type Needs } from '../../src/acceleration/belongings.ts';
import type { MadeManifest } from '../../src/acceleration/messages.ts';
import { parseDigest, type Digest } from '../../src/image/digest.ts';
import { defined } from '../../src/util/assert.ts';

const APP = 'registry.example/team/app';
const OTHER = 'other.example/team/app';
const KEEP_MS = 3_600_000;
const SWEEP_MS = KEEP_MS / 10;

function digestOf(n: number): Digest {
  return defined(parseDigest(`sha256:${n.toString(16).padStart(64, '0')}`), 'a digest');
}

const blobs = [{ digest: digestOf(50), sizeBytes: 1000 }];
const IMAGE: MadeManifest = { kind: 'image', digest: digestOf(1), subject: digestOf(9), blobs };
const LAYER: MadeManifest = { kind: 'layer', digest: digestOf(2), tag: 'xylem-layer-a', blobs };
const NOTHING: Needs = { names: new Set(), busy: new Set() };
const needing =
  (...names: string[]) =>
  (): Needs => ({ names: new Set(names), busy: new Set() });
const nothing = (): Needs => NOTHING;

function make(keepMs = KEEP_MS): Belongings {
  return new Belongings({ keepMs }, 0);
}

describe('Belongings', () => {
  it('gives up what nothing has needed for as long as it is kept', () => {
    const belongings = make();
    belongings.add(APP, IMAGE);
    belongings.add(APP, LAYER);
    const used = needing(digestIn(APP, IMAGE.digest), tagIn(APP, 'xylem-layer-a'));
    expect(belongings.sweep(used, SWEEP_MS)).toBe(false);
    const image = needing(digestIn(APP, IMAGE.digest));
    expect(belongings.sweep(image, 2 * SWEEP_MS)).toBe(true);
    const goneMs = 2 * SWEEP_MS + KEEP_MS;
    expect(belongings.list(APP)).toEqual({
      things: [
        expect.not.objectContaining({ idleMs: expect.any(Number) }),
        expect.objectContaining({ tag: 'xylem-layer-a', removeMs: goneMs, sizeBytes: 1000 }),
      ],
      sizeBytes: 1000,
    });
    expect(belongings.begin(image, goneMs - 1)).toBeUndefined();
    const due = defined(belongings.begin(image, goneMs), 'the layer is due');
    expect(due).toMatchObject([LAYER]);
    expect(belongings.begin(image, goneMs), 'one at a time').toBeUndefined();
    belongings.ended(due, { gone: [LAYER.digest], kept: new Map() }, goneMs);
    expect(belongings.records()).toMatchObject([IMAGE]);
  });

  it('keeps what is needed again, also when that is news', () => {
    const belongings = make();
    belongings.add(APP, LAYER);
    belongings.sweep(nothing, SWEEP_MS);
    const used = needing(tagIn(APP, 'xylem-layer-a'));
    expect(belongings.begin(used, 10 * KEEP_MS)).toBeUndefined();
    belongings.sweep(used, 10 * KEEP_MS);
    belongings.sweep(nothing, 11 * KEEP_MS);
    expect(belongings.list(undefined).things[0]).toMatchObject({ idleMs: 11 * KEEP_MS });
  });

  it('begins nothing where something is being made, and leaves what that has made', () => {
    const belongings = make();
    belongings.add(APP, IMAGE);
    belongings.sweep(nothing, SWEEP_MS);
    belongings.add(APP, LAYER);
    const busy = (): Needs => ({ names: new Set(), busy: new Set([APP]) });
    belongings.sweep(busy, 2 * SWEEP_MS);
    const [image, layer] = belongings.list(APP).things;
    expect(image?.idleMs).toBe(SWEEP_MS);
    expect(layer?.idleMs).toBeUndefined();
    expect(belongings.begin(busy, 10 * KEEP_MS)).toBeUndefined();
    expect(belongings.begin(nothing, 10 * KEEP_MS)).toMatchObject([IMAGE]);
  });

  it('asks again later about what somebody refers to, and soon when nobody answered', () => {
    const belongings = make(48 * KEEP_MS);
    belongings.add(APP, IMAGE);
    const startMs = 600_000;
    belongings.sweep(nothing, startMs);
    let nowMs = startMs + 48 * KEEP_MS;
    const due = defined(belongings.begin(nothing, nowMs), 'it is due');
    const kept = new Map([[IMAGE.digest, 'the tag 2 stands for it']]);
    belongings.ended(due, { gone: [], kept }, nowMs);
    expect(belongings.list(APP).things).toMatchObject([{ reason: 'the tag 2 stands for it' }]);
    expect(belongings.begin(nothing, nowMs + 24 * KEEP_MS - 1)).toBeUndefined();
    nowMs += 24 * KEEP_MS;
    belongings.ended(defined(belongings.begin(nothing, nowMs), 'due again'), undefined, nowMs);
    expect(belongings.begin(nothing, nowMs + KEEP_MS - 1)).toBeUndefined();
    expect(belongings.begin(nothing, nowMs + KEEP_MS)).toHaveLength(1);
  });

  it('leaves a registry alone that lets nothing be removed, and says so', () => {
    const belongings = make();
    for (const repository of [APP, OTHER]) belongings.add(repository, IMAGE);
    belongings.sweep(nothing, SWEEP_MS);
    const nowMs = SWEEP_MS + KEEP_MS;
    const due = defined(belongings.begin(nothing, nowMs), 'it is due');
    expect(due.map(({ repository }) => repository)).toEqual([APP]);
    belongings.ended(due, { gone: [], kept: new Map(), refused: 'status 405' }, nowMs);
    const next = belongings.begin(nothing, 100 * KEEP_MS);
    expect(next?.map(({ repository }) => repository)).toEqual([OTHER]);
    const [first, second] = belongings.list(undefined).things;
    expect(first).toMatchObject({ reason: 'status 405' });
    expect(first?.removeMs).toBeUndefined();
    expect(second?.reason).toBeUndefined();
  });

  it('removes nothing when it is told to keep all, and tells what is idle', () => {
    const belongings = make(0);
    belongings.add(APP, IMAGE);
    belongings.sweep(nothing, 600_000);
    expect(belongings.begin(nothing, 1e15)).toBeUndefined();
    const [thing] = belongings.list(APP).things;
    expect(thing).toMatchObject({ idleMs: 600_000 });
    expect(thing?.removeMs).toBeUndefined();
  });

  it('removes nothing for a while after its start, and bears a clock that is set back', () => {
    const belongings = new Belongings({ keepMs: KEEP_MS }, 1e12);
    belongings.load([{ ...IMAGE, repository: APP, idleMs: 1000 }]);
    expect(belongings.sweep(nothing, 1e12)).toBe(false);
    expect(belongings.begin(nothing, 1e12 + SWEEP_MS - 1)).toBeUndefined();
    expect(belongings.begin(nothing, 1e12 + SWEEP_MS)).toHaveLength(1);

    const back = new Belongings({ keepMs: KEEP_MS }, 1e12);
    back.load([{ ...IMAGE, repository: APP, idleMs: 2e12 }]);
    back.sweep(nothing, 1e6);
    back.sweep(nothing, 1e6 + SWEEP_MS);
    expect(back.records()[0]?.idleMs).toBe(1e6 + SWEEP_MS);
    expect(back.begin(nothing, 1e6 + SWEEP_MS + KEEP_MS)).toHaveLength(1);
  });

  it('finds out at once what is needed when that has changed', () => {
    const belongings = make();
    belongings.add(APP, IMAGE);
    belongings.sweep(needing(digestIn(APP, IMAGE.digest)), 0);
    expect(belongings.sweep(nothing, 1)).toBe(false);
    belongings.changed();
    expect(belongings.sweep(nothing, 2)).toBe(true);
    expect(belongings.list(APP).things).toMatchObject([{ idleMs: 2, removeMs: 2 + KEEP_MS }]);
  });

  it('takes the tag from an older layer whose place another one has taken', () => {
    const belongings = make();
    belongings.add(APP, LAYER);
    expect(belongings.add(APP, { ...LAYER, digest: digestOf(3) })).toBe(true);
    expect(belongings.add(APP, { ...LAYER, digest: digestOf(3) })).toBe(false);
    belongings.sweep(needing(tagIn(APP, 'xylem-layer-a')), SWEEP_MS);
    const [old, kept] = belongings.list(APP).things;
    expect(old).toMatchObject({ digest: LAYER.digest, idleMs: SWEEP_MS });
    expect(old?.tag).toBeUndefined();
    expect(kept?.idleMs).toBeUndefined();
  });
});
