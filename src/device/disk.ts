/**
 * Bytes of a block device that never change: what the FUSE server serves, and what can be read without mounting.
 *
 * Ranges lie in the device: the caller checks. `read()` may be called many times before the first one ends.
 */
export interface ReadOnlyDisk {
  /** A multiple of 512. */
  readonly sizeBytes: number;
  /** Fills the target from `offset` on when all of it is in memory; else false, with the target in an unknown state. Throws as read() rejects. */
  readSync(target: Uint8Array, offset: number): boolean;
  /** Fills the target from `offset` on, however long that takes within the disk's own deadline. Rejects when it cannot. */
  read(target: Uint8Array, offset: number): Promise<void>;
}

/** A disk over bytes in memory, for tests and benchmarks. */
export function memoryDisk(bytes: Uint8Array): ReadOnlyDisk {
  const readSync = (target: Uint8Array, offset: number): boolean => {
    target.set(bytes.subarray(offset, offset + target.length));
    return true;
  };
  return {
    sizeBytes: bytes.length,
    readSync,
    read: async (target, offset) => void readSync(target, offset),
  };
}
