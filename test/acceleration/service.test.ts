import { describe, expect, it } from 'vitest';
import { ConversionError } from '../../src/acceleration/failures.ts';
import type { Collected } from '../../src/acceleration/belongings.ts';
import type { Belonging, BlockImage, Conversion } from '../../src/acceleration/messages.ts';
import { AccelerationService, type AccelerationWork } from '../../src/acceleration/service.ts';
import type { Look } from '../../src/acceleration/states.ts';
import { parseDigest, type Digest } from '../../src/image/digest.ts';
import { RegistryError } from '../../src/registry/errors.ts';
import { DiskError } from '../../src/runtime/disk.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { silentMetrics } from '../../src/runtime/metrics.ts';
import { replaceFile } from '../../src/runtime/whole-file.ts';
import { SeededRandom } from '../../src/sim/seeded-random.ts';
import { defined } from '../../src/util/assert.ts';
import { ManualClock } from '../kit/manual-clock.ts';
import { SimDisk } from '../kit/sim-disk.ts';

const APP = 'registry.example/team/app:1';
const digestOf = (n: number): Digest =>
  defined(parseDigest(`sha256:${n.toString(16).padStart(64, '0')}`), 'a digest');

/** Work that the test ends; what it is asked stands in `asked`. */
class Work implements AccelerationWork {
  readonly asked: string[] = [];
  readonly conversions: PromiseWithResolvers<Conversion>[] = [];
  readonly collected: (readonly Belonging[])[] = [];
  /** What is refused. */
  refused: string | undefined;
  digest: Digest | Error = digestOf(1);
  running = 0;
  runningMost = 0;

  async look(image: string): Promise<Look> {
    this.asked.push(`look ${image}`);
    if (this.digest instanceof Error) throw this.digest;
    return { sourceDigest: this.digest, isThere: true };
  }

  async convert(
    ...[image, , { signal, onProgress, onMade }]: Parameters<AccelerationWork['convert']>
  ) {
    this.asked.push(`convert ${image}`);
    const conversion = Promise.withResolvers<Conversion>();
    this.conversions.push(conversion);
    this.runningMost = Math.max(this.runningMost, ++this.running);
    signal.addEventListener('abort', () => conversion.reject(signal.reason as Error));
    onMade({ kind: 'layer', digest: digestOf(7), tag: 'xylem-layer-7', blobs: [] });
    onProgress({ step: 'layer 1 of 1', doneBytes: 1, totalBytes: 2 });
    return conversion.promise.finally(() => this.running--);
  }

  async remove(image: string, images: readonly BlockImage[]): Promise<void> {
    this.asked.push(`remove ${image} ${images.length}`);
  }

  async collect(belongings: readonly Belonging[]): Promise<Collected> {
    this.collected.push(belongings);
    const gone = this.refused === undefined ? belongings.map(({ digest }) => digest) : [];
    return { gone, kept: new Map(), refused: this.refused };
  }
}

function make(disk: SimDisk, work: Work, clock = new ManualClock(), concurrent = 1) {
  const random = new SeededRandom('acceleration');
  const parts = { work, disk, clock, random, logger: silentLogger, metrics: silentMetrics };
  return new AccelerationService(parts, { concurrent, watchMs: 300_000, keepMs: 3_600_000 });
}

/** Lets everything happen that waits for nothing. */
const settled = () => new Promise((resolve) => setImmediate(resolve));

const made = (n: number) => ({
  images: [{ platform: 'linux/amd64', sourceDigest: digestOf(n), digest: digestOf(n + 100) }],
  layerTags: ['xylem-layer-7'],
});

async function newDisk(): Promise<SimDisk> {
  const disk = new SimDisk({ random: new SeededRandom('disk') });
  await disk.makeFolder('');
  return disk;
}

describe('AccelerationService', () => {
  it('keeps its state over a restart, and begins anew what it was in the middle of', async () => {
    const disk = await newDisk();
    const first = new Work();
    const before = make(disk, first);
    await before.start();
    await before.set(`docker://${APP}`, 'Default');
    await settled();
    expect(before.list()).toMatchObject([{ image: APP, state: 'Preparing', progress: {} }]);
    await before.stop();
    expect(first.running).toBe(0);

    const work = new Work();
    const service = make(disk, work);
    await service.start();
    await settled();
    expect(service.list()).toMatchObject([{ image: APP, state: 'Preparing', failures: 0 }]);
    work.conversions[0]?.resolve(made(1));
    await settled();
    expect(service.list()).toMatchObject([{ state: 'Ready', ready: made(1) }]);
    await service.stop();

    const third = make(disk, new Work());
    await third.start();
    expect(third.list()).toMatchObject([{ state: 'Ready', ready: made(1) }]);
    await third.stop();
  });

  it('runs as many conversions as it may, one that is being broken off included', async () => {
    const work = new Work();
    const service = make(await newDisk(), work, new ManualClock(), 2);
    await service.start();
    for (const name of ['a', 'b', 'c', 'd']) {
      await service.set(`registry.example/${name}:1`, 'Default');
    }
    await settled();
    expect(work.running).toBe(2);
    await service.set('registry.example/a:1', 'None');
    await settled();
    work.conversions[1]?.resolve(made(1));
    await settled();
    work.conversions[2]?.reject(new ConversionError('a broken layer', { code: 'tar' }));
    await settled();
    expect(work.runningMost).toBe(2);
    const states = service.list().map(({ image, state, failure }) => [image, state, failure?.kind]);
    expect(states).toEqual([
      ['registry.example/b:1', 'Ready', undefined],
      ['registry.example/c:1', 'Failed', 'image'],
      ['registry.example/d:1', 'Preparing', undefined],
    ]);
    await service.stop();
  });

  it('tries again after a while, and looks at tags again', async () => {
    const [clock, work] = [new ManualClock(), new Work()];
    work.digest = new RegistryError('cannot reach it', { code: 'unavailable' });
    const service = make(await newDisk(), work, clock);
    await service.start();
    await service.set(APP, 'Default');
    await settled();
    expect(service.list()).toMatchObject([{ state: 'Failed', failure: { kind: 'registry' } }]);
    work.digest = digestOf(1);
    clock.advance(30_000);
    await settled();
    work.conversions[0]?.resolve(made(1));
    await settled();
    expect(service.list()).toMatchObject([{ state: 'Ready', failures: 0 }]);
    work.digest = digestOf(2);
    for (let minutes = 0; minutes < 5; minutes++) clock.advance(60_000);
    await settled();
    expect(service.list()).toMatchObject([{ state: 'Preparing', sourceDigest: digestOf(2) }]);
    await service.stop();
  });

  it('says so when a request would not outlive a restart', async () => {
    const disk = await newDisk();
    const service = make(disk, new Work());
    await service.start();
    disk.setFault((_, path) => {
      throw new DiskError('no space', { code: 'no-space', path });
    });
    await expect(service.set(APP, 'Default')).rejects.toMatchObject({ code: 'not-kept' });
    await service.stop();
  });

  it('removes what nothing needs any more after a while, also over a restart', async () => {
    const [disk, clock, work] = [await newDisk(), new ManualClock(), new Work()];
    const before = make(disk, work, clock);
    await before.start();
    await before.set(APP, 'Default');
    await settled();
    work.conversions[0]?.resolve(made(1));
    await settled();
    const hours = async (count: number): Promise<void> => {
      for (let minutes = 0; minutes < count * 60; minutes++) {
        clock.advance(60_000);
        await settled();
      }
    };
    await hours(3);
    expect(work.collected).toEqual([]);
    expect(before.kept('registry.example/team/app')).toMatchObject({
      things: [{ kind: 'layer', tag: 'xylem-layer-7', repository: 'registry.example/team/app' }],
    });
    await before.set(APP, 'None');
    await hours(0.5);
    await before.stop();

    const service = make(disk, work, clock);
    await service.start();
    await hours(0.4);
    expect(work.collected).toEqual([]);
    const [thing] = service.kept(undefined).things;
    expect(thing?.removeMs).toBe((thing?.idleMs ?? 0) + 3_600_000);
    work.refused = 'status 405';
    await hours(1);
    expect(work.collected).toHaveLength(1);
    expect(service.kept(undefined).things).toMatchObject([{ reason: 'status 405' }]);
    await hours(24);
    expect(work.collected, 'the registry is left alone').toHaveLength(1);
    await service.stop();

    work.refused = undefined;
    const third = make(disk, work, clock);
    await third.start();
    await hours(1);
    expect(third.kept(undefined)).toEqual({ things: [], sizeBytes: 0 });
    await third.stop();
  });

  it('leaves out damaged records, and starts without a file that it cannot read', async () => {
    const disk = await newDisk();
    const good = {
      ...{ image: APP, accelerationType: 'Default', state: 'Ready', failures: 0, requestedMs: 1 },
      ready: { sourceDigest: digestOf(1), ...made(1), readyMs: 1, seconds: 2 },
    };
    const images = [good, null, 7, { ...good, state: 'Odd' }, { ...good, image: 1 }];
    const put = (text: string) =>
      replaceFile(disk, 'acceleration.json', Buffer.from(text), { sync: true });
    const thing = {
      ...{ repository: 'registry.example/team/app', kind: 'image', digest: digestOf(101) },
      ...{ subject: digestOf(1), blobs: [{ digest: digestOf(5), sizeBytes: 7 }, null] },
    };
    const belongings = [thing, null, { ...thing, subject: 'x' }, { ...thing, kind: 'odd' }];
    await put(JSON.stringify({ version: 1, images, belongings }));
    const service = make(disk, new Work());
    await service.start();
    expect(service.list()).toMatchObject([{ image: APP, ready: made(1) }]);
    expect(service.kept(undefined)).toMatchObject({ things: [{ sizeBytes: 7 }], sizeBytes: 7 });
    await service.stop();
    await put('{"images": [');
    const other = make(disk, new Work());
    await other.start();
    expect(other.list()).toEqual([]);
    await other.stop();
  });

  it('takes images by tag alone, under one name', async () => {
    const service = make(await newDisk(), new Work());
    await service.start();
    await expect(service.set(`r.example/app@${digestOf(1)}`, 'Default')).rejects.toMatchObject({
      code: 'not-a-tag',
    });
    await expect(service.set('r.example/App:1', 'Default')).rejects.toBeInstanceOf(RegistryError);
    await service.set('docker://r.example/app', 'Default');
    await service.set('r.example/app:latest', 'Default');
    expect(service.list().map(({ image }) => image)).toEqual(['r.example/app:latest']);
    expect(await service.set('r.example/none:1', 'None')).toMatchObject({
      accelerationType: 'None',
    });
    expect(service.list()).toHaveLength(1);
    await service.stop();
  });
});
