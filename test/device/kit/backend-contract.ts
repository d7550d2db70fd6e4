import { expect, it } from 'vitest';
import type { ReadOnlyDisk } from '../../../src/device/disk.ts';
import { KIB, MIB } from '../../../src/util/bytes.ts';
import { sampleBytes } from '../../kit/layers.ts';
import { testDisk, type TestDisk } from './test-disk.ts';

/** A disk as a program sees it through a backend. */
export interface OpenDevice {
  readonly sizeBytes: number;
  /** Bytes of a range, perhaps fewer at the end of the device. Rejects when it cannot be read. */
  read(offset: number, length: number): Promise<Buffer>;
  /** Tries to change the device: what came of it, such as `EPERM`. */
  write(): Promise<string>;
  /** Ends the server, whatever is in flight; resolves when all of it is gone. */
  stop(): Promise<void>;
}

/** A way by which programs read a disk. `open()` serves it until the test ends at the latest. */
export type Backend = (disk: ReadOnlyDisk) => Promise<OpenDevice>;

const SIZE = 8 * MIB;
const BYTES = sampleBytes(SIZE, 11);

/** Reads in the places where mistakes are made: edges of pages, of parts, and none of them. */
const ODD: readonly (readonly [offset: number, length: number])[] = [
  [0, 1],
  [1, 1],
  [511, 2],
  [513, 4095],
  [4095, 2],
  [4097, 100_003],
  [64 * KIB - 1, 64 * KIB + 2],
  [256 * KIB - 3, 7],
  [3 * MIB + 5, 1_234_567],
  [12_345, 4 * MIB],
];

/**
 * What every backend of a device does, for `describe` with the needs of the backend.
 * `answersOutOfOrder` is false for a client that holds reads back while another one waits.
 */
export function itServesDisks(
  open: Backend,
  { answersOutOfOrder = true }: { answersOutOfOrder?: boolean } = {},
): void {
  const same = (got: Buffer, offset: number, length: number): void => {
    expect(got.length).toBe(length);
    expect(Buffer.compare(got, BYTES.subarray(offset, offset + length))).toBe(0);
  };
  const readSame = async (device: OpenDevice, offset: number, length: number): Promise<void> =>
    same(await device.read(offset, length), offset, length);

  it('has the size of the disk, and all of its bytes', async () => {
    const device = await open(testDisk(BYTES));
    expect(device.sizeBytes).toBe(SIZE);
    await readSame(device, 0, SIZE);
  });

  it('reads at odd offsets and of odd lengths', async () => {
    const device = await open(testDisk(BYTES));
    for (const [offset, length] of ODD) await readSame(device, offset, length);
  });

  it('reads up to the end, and nothing past it', async () => {
    const device = await open(testDisk(BYTES));
    await readSame(device, SIZE - 1, 1);
    await readSame(device, SIZE - 100_001, 100_001);
    const outcomes = [SIZE - 100, SIZE, SIZE + 4096, SIZE * 2].map(async (offset) => {
      const got = await device.read(offset, 4096).catch(() => Buffer.alloc(0));
      expect(Buffer.compare(got, BYTES.subarray(offset, offset + got.length))).toBe(0);
      expect(got.length).toBeLessThanOrEqual(Math.max(0, SIZE - offset));
    });
    await Promise.all(outcomes);
    await readSame(device, 0, 4096);
  });

  it('answers hundreds of reads at a time, each with its own bytes', async () => {
    const device = await open(testDisk(BYTES));
    const reads = Array.from({ length: 300 }, async (_, i) => {
      const offset = (i * 7_919 * 512 + i) % (SIZE - 40_000);
      await readSame(device, offset, 1 + ((i * 131) % 40_000));
    });
    await Promise.all(reads);
  });

  it('fails a read that meets bad bytes, alone, and reads them once they are good', async () => {
    const disk = testDisk(BYTES);
    const device = await open(disk);
    disk.bad = { from: 4 * MIB, to: 4 * MIB + 64 * KIB };
    const good = Promise.all([
      readSame(device, 2 * MIB, 300_000),
      readSame(device, 6 * MIB + 1, 300_000),
    ]);
    await expect(device.read(4 * MIB + 4096, 4096)).rejects.toThrow(/EIO/);
    await expect(device.read(4 * MIB - 200_000, 500_000)).rejects.toThrow(/EIO/);
    await good;
    await readSame(device, 0, 2 * MIB);
    disk.bad = undefined;
    await readSame(device, 4 * MIB - 200_000, 500_000);
  });

  it.runIf(answersOutOfOrder)('answers other reads while one waits', async () => {
    const disk = testDisk(BYTES);
    const device = await open(disk);
    const held = holdUp(disk, 5 * MIB + 64 * KIB);
    const slow = readSame(device, 5 * MIB + 64 * KIB, 4096);
    await held.begun;
    await readSame(device, 0, 300_000);
    await readSame(device, 7 * MIB, 300_000);
    held.release();
    await slow;
  });

  it('cannot be written', async () => {
    const device = await open(testDisk(BYTES));
    expect(await device.write()).toMatch(/^(?:EPERM|EROFS|EACCES)$/);
    await readSame(device, 0, 4096);
  });

  it('ends while reads wait: they fail', async () => {
    const disk = testDisk(BYTES);
    const device = await open(disk);
    const held = holdUp(disk, 5 * MIB + 64 * KIB);
    const slow = expect(device.read(5 * MIB + 64 * KIB, 4096)).rejects.toThrow();
    await held.begun;
    await device.stop();
    await slow;
    held.release();
  });
}

/** Holds up reads that are fetched from this place. */
function holdUp(disk: TestDisk, place: number): { begun: Promise<void>; release: () => void } {
  const begun = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  disk.gate = (offset, length) => {
    if (place < offset || place >= offset + length) return Promise.resolve();
    begun.resolve();
    return gate.promise;
  };
  return { begun: begun.promise, release: gate.resolve };
}
