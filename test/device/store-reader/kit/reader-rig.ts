import { readdirSync, readlinkSync } from 'node:fs';
import { onTestFinished } from 'vitest';
import type { HeldBlobInit } from '../../../../src/device/store-reader/held-blob.ts';
import { FILES_MAX, SharedFiles } from '../../../../src/device/store-reader/shared-files.ts';
import { StoreReader } from '../../../../src/device/store-reader/store-reader.ts';
import { LOOK_MS } from '../../../../src/device/store-reader/store-trust.ts';
import type { BlobRef } from '../../../../src/image/block.ts';
import { SystemClock } from '../../../../src/runtime/node/clock.ts';
import { NodeCodec } from '../../../../src/runtime/node/codec.ts';
import { NodeHash } from '../../../../src/runtime/node/hash.ts';

/** A reader of a store, whose clock the test moves. */
export interface ReaderRig {
  readonly reader: StoreReader;
  readonly shared: SharedFiles;
  /** The bytes of the first blob, copied. */
  read(offset: number, length: number): Uint8Array | undefined;
  /** Has it look at the files again. */
  passTime(): void;
}

/** Opens blobs of the store in a folder, until the test ends. */
export function openReader(
  dir: string,
  blobs: readonly BlobRef[],
  init: {
    by: HeldBlobInit['by'];
    digests?: Uint8Array;
    untrustedSigners?: readonly Uint8Array[];
    filesMax?: number;
    memoryBytesMax?: number;
  },
): ReaderRig {
  const { by, digests, untrustedSigners = [] } = init;
  const { filesMax = FILES_MAX, memoryBytesMax = 4 * 1024 * 1024 } = init;
  const shared = new SharedFiles(new SharedArrayBuffer(SharedFiles.sizeBytes));
  shared.setBounds({ filesMax, memoryBytesMax });
  let nowMs = 0;
  const clock = { nowMs: () => nowMs, wallMs: () => new SystemClock().wallMs() };
  const reader = new StoreReader(
    { clock, codec: new NodeCodec(), hash: new NodeHash(), shared },
    { dir, untrustedSigners, blobs: blobs.map((blob) => ({ blob, by, digests })) },
  );
  onTestFinished(() => shared.closeAll());
  return {
    reader,
    shared,
    read: (offset, length) => reader.sources[0]?.(offset, length)?.slice(),
    passTime: () => {
      nowMs += LOOK_MS;
    },
  };
}

/**
 * Files below a folder that this process has open; those that were removed end with `(deleted)`.
 */
export function openFilesBelow(folder: string): string[] {
  return readdirSync('/proc/self/fd')
    .map((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`);
      } catch {
        return ''; // Of the listing itself.
      }
    })
    .filter((path) => path.startsWith(folder));
}
