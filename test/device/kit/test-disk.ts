import { memoryDisk, type ReadOnlyDisk } from '../../../src/device/disk.ts';

/**
 * A disk whose faults a test sets. Of its ranges of 64 KiB every second one is in memory; the
 * others are fetched. `bad` cannot be read while it is set, and `gate` holds up what is fetched.
 */
export interface TestDisk extends ReadOnlyDisk {
  bad: { readonly from: number; readonly to: number } | undefined;
  gate: (offset: number, length: number) => Promise<void>;
}

const STRIPE_BYTES = 64 * 1024;

/** A disk of these bytes without faults. */
export function testDisk(bytes: Uint8Array): TestDisk {
  const whole = memoryDisk(bytes);
  const isBad = (offset: number, length: number): boolean =>
    disk.bad !== undefined && offset < disk.bad.to && offset + length > disk.bad.from;
  const disk: TestDisk = {
    sizeBytes: bytes.length,
    bad: undefined,
    gate: () => Promise.resolve(),
    readSync: (target, offset) => {
      const isCached = Math.floor(offset / STRIPE_BYTES) % 2 === 0;
      return isCached && !isBad(offset, target.length) && whole.readSync(target, offset);
    },
    read: async (target, offset) => {
      await disk.gate(offset, target.length);
      if (isBad(offset, target.length)) throw new Error('the deadline has passed');
      whole.readSync(target, offset);
    },
  };
  return disk;
}
