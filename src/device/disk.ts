/**
 * Bytes of a block device that never change. The FUSE server serves one; it can also be read
 * without a mount.
 *
 * The caller checks that ranges lie in the device. Any number of `read()`s may be in flight.
 */
export interface ReadOnlyDisk {
  /** Bytes of the device; a multiple of 512. */
  readonly sizeBytes: number;
  /**
   * Fills the target from `offset` on when all its bytes are in memory. Otherwise false: the
   * content of the target is then undefined. Throws the errors of `read()`.
   */
  readSync(target: Uint8Array, offset: number): boolean;
  /** Fills the target from `offset` on, or rejects, at the latest at the disk's own deadline. */
  read(target: Uint8Array, offset: number): Promise<void>;
  /**
   * What is known of a range without reading it: data, or nothing but zeros, in order from `offset`
   * on. Neighbours differ. There is at least one extent and at most `countMax`; they may end before
   * the range does. A disk without it has data everywhere.
   */
  extents?(offset: number, length: number, countMax: number): readonly DiskExtent[];
}

/** A part of a disk. */
export interface DiskExtent {
  /** At least 1. */
  readonly length: number;
  /** Whether it is known to read as zeros. */
  readonly isZero: boolean;
}

/** A disk of bytes in memory, for tests and benchmarks. */
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
