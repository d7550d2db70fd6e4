import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { APPEND_FILES, AppendLayer, type LowerDisk } from '../../src/image/append-layer.ts';
import { memorySource } from '../../src/image/byte-source.ts';
import { ImageError } from '../../src/image/errors.ts';
import { openAppendLayer, openLayer } from '../../src/image/layer.ts';
import { LayerWriter } from '../../src/image/layer-writer.ts';
import { LayeredImage } from '../../src/image/layered-image.ts';
import type { Disk } from '../../src/runtime/disk.ts';
import { readWhole } from '../../src/runtime/whole-file.ts';
import { SeededRandom } from '../../src/sim/seeded-random.ts';
import { bytesEqual } from '../../src/util/bytes.ts';
import { codec, makeLayer, MemorySink, sampleBytes } from '../kit/layers.ts';
import { SimDisk, simError } from '../kit/sim-disk.ts';

const SECTOR = 512;
/** Sectors of the device; the device below ends earlier. */
const SECTORS = 64;
const LOWER_SECTORS = 48;
const SIZE = SECTORS * SECTOR;
const UUID = '01234567-89AB-CDEF-0123-456789ABCDEF';
const FOLDER = 'upper';

const lowerBytes = sampleBytes(LOWER_SECTORS * SECTOR, 99);
const lower: LowerDisk = {
  sizeBytes: lowerBytes.length,
  read: async (target, offset) => target.set(lowerBytes.subarray(offset, offset + target.length)),
};

interface Step {
  readonly kind: 'write' | 'zero' | 'flush';
  readonly offset: number;
  readonly length: number;
}

const stepArbitrary = fc
  .record({
    kind: fc.constantFrom<Step['kind']>('write', 'write', 'write', 'zero', 'flush'),
    offset: fc.nat(SECTORS - 1),
    length: fc.integer({ min: 1, max: 9 }),
  })
  .map((step) => ({ ...step, length: Math.min(step.length, SECTORS - step.offset) }));

/** Writes apart from each other, whose entries fill two sectors of the index. */
const burst: readonly Step[] = Array.from({ length: 70 }, (_, i) => ({
  kind: 'write',
  offset: (i * 7) % SECTORS,
  length: 1,
}));

const stepsArbitrary = fc
  .array(fc.oneof({ weight: 12, arbitrary: stepArbitrary }, fc.constant('burst' as const)), {
    minLength: 1,
    maxLength: 60,
  })
  .map((steps) => steps.flatMap((step) => (step === 'burst' ? burst : [step])));

function freshDevice(): Uint8Array {
  const device = new Uint8Array(SIZE);
  device.set(lowerBytes);
  return device;
}

async function simDisk(seed: string): Promise<SimDisk> {
  const disk = new SimDisk({ random: new SeededRandom(seed) });
  await disk.makeFolder(FOLDER);
  await AppendLayer.create(disk, FOLDER, { virtualSizeBytes: SIZE, uuid: UUID });
  return disk;
}

async function openUpper(disk: Disk, boot?: string): Promise<AppendLayer> {
  const parts = {
    disk,
    lower,
    rewriteMin: 20,
    release: (...range: [number, number]) => punch(disk, ...range),
  };
  const layer = await AppendLayer.open({ ...parts, ...(boot !== undefined && { boot }) }, FOLDER);
  if (layer === undefined) throw new Error('the layer is gone');
  return layer;
}

/** What a hole in the data file is to its readers. */
async function punch(disk: Disk, offset: number, length: number): Promise<boolean> {
  const file = await disk.open(`${FOLDER}/${APPEND_FILES.data}`, 'write');
  await file.write(new Uint8Array(length), offset);
  await file.close();
  return true;
}

async function readAll(layer: AppendLayer): Promise<Uint8Array> {
  const bytes = new Uint8Array(SIZE).fill(0xaa);
  await layer.read(bytes, 0);
  return bytes;
}

/** A step on the device as it should be; `seed` makes the bytes of each write its own. */
function applied(device: Uint8Array, step: Step, seed: number): Uint8Array {
  const next = device.slice();
  const [at, end] = [step.offset * SECTOR, (step.offset + step.length) * SECTOR];
  if (step.kind === 'write') next.set(sampleBytes(end - at, seed), at);
  else if (step.kind === 'zero') next.fill(0, at, end);
  return next;
}

async function run(layer: AppendLayer, step: Step, seed: number): Promise<void> {
  const [at, length] = [step.offset * SECTOR, step.length * SECTOR];
  if (step.kind === 'write') await layer.write(at, sampleBytes(length, seed));
  else if (step.kind === 'zero') await layer.zero(at, length);
  else await layer.flush();
}

/**
 * Opens the layer, which must show one of the `allowed` devices, and runs the steps until the disk
 * dies. Gives the devices that the next one may show: the states since the last flush that ended,
 * or since the last write when writes are kept.
 */
async function runUntilDeath(
  disk: SimDisk,
  allowed: readonly Uint8Array[],
  steps: readonly Step[],
  { boot, isKept }: { readonly boot?: string; readonly isKept: boolean },
): Promise<readonly Uint8Array[]> {
  let states = allowed;
  const go = async (): Promise<void> => {
    const layer = await openUpper(disk, boot);
    let state = await readAll(layer);
    expect(allowed.some((each) => bytesEqual(each, state))).toBe(true);
    states = [state];
    for (const [i, step] of steps.entries()) {
      state = applied(state, step, i);
      // A write that the disk dies in may be done.
      if (step.kind !== 'flush') states = [...states, state];
      await run(layer, step, i);
      if (step.kind === 'flush' || isKept) states = [state];
      if (i % 7 === 0) expect(bytesEqual(await readAll(layer), state)).toBe(true);
    }
  };
  // The dead disk never answers, so that the run may never end.
  let failure: unknown;
  let over = false;
  void go()
    .catch((error: unknown) => (failure = error))
    .finally(() => (over = true));
  for (let idle = 0, last = -1; !over && idle < 20; idle++) {
    await new Promise((resolve) => setImmediate(resolve));
    if (last !== disk.operationCount) idle = 0;
    last = disk.operationCount;
  }
  if (failure instanceof Error) throw failure;
  return states;
}

describe('AppendLayer', () => {
  it('reads what was written, over the device below, at any range', async () => {
    await fc.assert(
      fc.asyncProperty(fc.string(), stepsArbitrary, async (seed, steps) => {
        const layer = await openUpper(await simDisk(seed));
        let device = freshDevice();
        for (const [i, step] of steps.entries()) {
          device = applied(device, step, i);
          await run(layer, step, i);
        }
        expect(bytesEqual(await readAll(layer), device)).toBe(true);
        const random = new SeededRandom(seed);
        const from = random.below(SIZE);
        const part = new Uint8Array(random.below(SIZE - from));
        await layer.read(part, from);
        expect(bytesEqual(part, device.subarray(from, from + part.length))).toBe(true);
      }),
    );
  });

  it.each([
    ['kill', false],
    ['losePower', false],
    ['kill', true],
    ['losePower', true],
  ] as const)(
    'after %s the device is as some step at or after the last flush left it, life after life; ' +
      'with a tail (%s), as the last write left it, if the kernel lives',
    async (end, hasTail) => {
      const livesArbitrary = fc.array(fc.tuple(stepsArbitrary, fc.nat(250)), {
        minLength: 1,
        maxLength: 4,
      });
      await fc.assert(
        fc.asyncProperty(fc.string(), livesArbitrary, async (seed, lives) => {
          let disk = await simDisk(seed);
          let allowed: readonly Uint8Array[] = [freshDevice()];
          const optionsOf = (life: number) => ({
            isKept: hasTail && end === 'kill',
            ...(hasTail && { boot: end === 'kill' ? 'boot' : `boot-${life}` }),
          });
          for (const [life, [steps, dieAfter]] of lives.entries()) {
            disk.failAfter(dieAfter);
            allowed = await runUntilDeath(disk, allowed, steps, optionsOf(life));
            disk = disk[end]();
          }
          await runUntilDeath(disk, allowed, [], optionsOf(lives.length));
        }),
        { numRuns: 300 },
      );
    },
  );

  it('entries that a recovery cut do not come back behind new ones', async () => {
    await fc.assert(
      fc.asyncProperty(fc.string(), async (seed) => {
        let disk = await simDisk(seed);
        let allowed: readonly Uint8Array[] = [freshDevice()];
        // The second life writes less than a hole of the first one may have room for.
        for (const count of [70, 32, 1]) {
          const layer = await openUpper(disk);
          let state = await readAll(layer);
          expect(allowed.some((each) => bytesEqual(each, state))).toBe(true);
          const states = [state];
          for (const [i, step] of burst.slice(0, count).entries()) {
            state = applied(state, step, 100 * count + i);
            states.push(state);
            await run(layer, step, 100 * count + i);
          }
          disk.setFault((operation, path) => {
            if (operation === 'sync' && path.endsWith(APPEND_FILES.index))
              throw simError('io', path);
          });
          await expect(layer.flush()).rejects.toThrow('simulated');
          allowed = states;
          disk = disk.losePower();
        }
      }),
      { numRuns: 200 },
    );
  });

  it('commit() makes a layer that shows the same device over the one below', async () => {
    await fc.assert(
      fc.asyncProperty(fc.string(), stepsArbitrary, async (seed, steps) => {
        const layer = await openUpper(await simDisk(seed));
        for (const [i, step] of steps.entries()) await run(layer, step, i);
        const sink = new MemorySink();
        const writer = new LayerWriter({ codec, sink }, { virtualSizeBytes: SIZE, uuid: UUID });
        await layer.commit(writer);
        const blob = sink.bytes.slice(0, await writer.finish());
        const ranges = [{ offset: 0, bytes: lowerBytes }];
        const base = await makeLayer({ virtualSizeBytes: lowerBytes.length, ranges });
        const image = new LayeredImage([
          await openLayer(memorySource(base), codec),
          await openLayer(memorySource(blob), codec),
        ]);
        expect(bytesEqual(await image.read(0, SIZE), await readAll(layer))).toBe(true);
      }),
      { numRuns: 50 },
    );
  });

  it('has room for what is overwritten, and none beyond its limit', async () => {
    const layer = await openUpper(await simDisk('limit'), 'boot');
    layer.limitBytes = 8 * SECTOR;
    for (let i = 0; i < 50; i++) await layer.write(0, sampleBytes(4 * SECTOR, i + 1));
    await layer.write(4 * SECTOR, sampleBytes(2 * SECTOR, 60));
    await layer.write(8 * SECTOR, new Uint8Array(4 * SECTOR));
    const full = layer.write(16 * SECTOR, sampleBytes(4 * SECTOR, 61));
    await expect(full).rejects.toMatchObject({ code: 'no-space' });
    await layer.zero(0, SECTOR);
    await layer.zero(4 * SECTOR, SECTOR);
    await layer.write(16 * SECTOR, sampleBytes(4 * SECTOR, 62));
    expect(layer.usedBytes).toBe(8 * SECTOR);
    const expected = freshDevice();
    expected.set(sampleBytes(4 * SECTOR, 50));
    expected.set(sampleBytes(2 * SECTOR, 60), 4 * SECTOR);
    for (const [from, to] of [
      [0, 1],
      [4, 5],
      [8, 12],
    ] as const) {
      expected.fill(0, from * SECTOR, to * SECTOR);
    }
    expected.set(sampleBytes(4 * SECTOR, 62), 16 * SECTOR);
    expect(bytesEqual(await readAll(layer), expected)).toBe(true);
  });

  it('ends its work before it is closed, and none begins then', async () => {
    const disk = await simDisk('close');
    const layer = await openUpper(disk, 'boot');
    const writing = layer.write(0, sampleBytes(SECTOR, 1));
    const closing = layer.close();
    await Promise.allSettled([writing]);
    await closing;
    await expect(layer.write(0, sampleBytes(SECTOR, 2))).rejects.toThrow('closed');
    await expect(layer.flush()).rejects.toThrow('closed');
    const part = new Uint8Array(SECTOR);
    await (await openUpper(disk, 'boot')).read(part, 0);
    expect([sampleBytes(SECTOR, 1), lowerBytes.subarray(0, SECTOR)]).toContainEqual(part);
  });

  it('writes files that openAppendLayer() reads', async () => {
    const disk = await simDisk('files');
    const layer = await openUpper(disk);
    await layer.write(4 * SECTOR, sampleBytes(6 * SECTOR, 1));
    await layer.write(5 * SECTOR, sampleBytes(SECTOR, 2));
    await layer.flush();
    const whole = async (name: keyof typeof APPEND_FILES): Promise<Uint8Array> =>
      (await readWhole(disk, `${FOLDER}/${APPEND_FILES[name]}`, 2 ** 20))!;
    const again = await openAppendLayer(
      memorySource(await whole('data')),
      memorySource(await whole('index')),
    );
    expect(again.uuid).toBe(UUID);
    expect([...again.segments.moffsets]).toEqual([8, 14, 10]);
    expect([...again.segments.offsets]).toEqual([4, 5, 6]);
  });

  it('refuses to write after a sync that failed, and goes on after a full disk', async () => {
    const disk = await simDisk('faults');
    const layer = await openUpper(disk);
    const fault = (operation: string, code: 'io' | 'no-space'): void =>
      disk.setFault((each, path) => {
        if (each === operation) throw simError(code, path);
      });
    fault('write', 'no-space');
    await expect(layer.write(0, sampleBytes(SECTOR, 1))).rejects.toThrow('no-space');
    expect(bytesEqual(await readAll(layer), freshDevice())).toBe(true);
    disk.setFault(() => {});
    await layer.write(0, sampleBytes(SECTOR, 1));
    fault('write', 'no-space');
    await expect(layer.flush()).rejects.toThrow('no-space');
    disk.setFault(() => {});
    await layer.flush();
    await layer.write(SECTOR, sampleBytes(SECTOR, 2));
    fault('sync', 'io');
    await expect(layer.flush()).rejects.toThrow('simulated');
    disk.setFault(() => {});
    await expect(layer.flush()).rejects.toThrow('simulated');
    await expect(layer.write(0, sampleBytes(SECTOR, 1))).rejects.toThrow('simulated');
    const expected = freshDevice();
    expected.set(sampleBytes(SECTOR, 1));
    const after = await readAll(await openUpper(disk.losePower()));
    expect(bytesEqual(after.subarray(0, SECTOR), expected.subarray(0, SECTOR))).toBe(true);
  });

  it('open() refuses an index that names data which the data file lacks', async () => {
    const disk = await simDisk('short');
    const layer = await openUpper(disk);
    await layer.write(0, sampleBytes(4 * SECTOR, 1));
    await layer.flush();
    const file = await disk.open(`${FOLDER}/${APPEND_FILES.data}`, 'write');
    await file.truncate(4096 + 3 * SECTOR);
    await expect(openUpper(disk)).rejects.toThrow(ImageError);
  });

  it('create() leaves a layer that is there alone', async () => {
    const disk = await simDisk('twice');
    const init = { virtualSizeBytes: SIZE, uuid: UUID };
    await expect(AppendLayer.create(disk, FOLDER, init)).rejects.toThrow('there is a writable');
    expect(await AppendLayer.open({ disk }, '')).toBeUndefined();
  });
});
