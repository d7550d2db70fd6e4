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

/** A block device that is written too. Ranges lie in the device; written ones are whole sectors. */
export interface WritableDisk extends Pick<ReadOnlyDisk, 'sizeBytes' | 'read'> {
  /** Once it resolves, reads show the bytes. */
  write(offset: number, bytes: Uint8Array): Promise<void>;
  /** Has a range read as zeros. */
  zero(offset: number, length: number): Promise<void>;
  /** Once it resolves, what had been written before the call survives a loss of power. */
  flush(): Promise<void>;
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
