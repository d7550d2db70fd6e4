import { execFile } from 'node:child_process';
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { LocalFile } from '../src/convert/files.ts';
import { BLOCK_SIZE_BYTES, type BlobRef } from '../src/image/block.ts';
import type { Digest } from '../src/image/digest.ts';
import { LayerWriter } from '../src/image/layer-writer.ts';
import { ZFILE_DEFAULTS, type ZFileOptions } from '../src/image/zfile-writer.ts';
import { NodeCodec } from '../src/runtime/node/codec.ts';
import { NodeHash } from '../src/runtime/node/hash.ts';
import type { BlobReader } from '../src/transfer/contracts/blob-reader.ts';
import { defined } from '../src/util/assert.ts';
import { MIB, toHex } from '../src/util/bytes.ts';
import { imageOf } from '../test/device/kit/images.ts';
import { storeBlob } from '../test/device/kit/stored-image.ts';

const run = promisify(execFile);

/** Layers of the image, lowest first: every N-th MiB of the device is in the layer again. */
const LAYER_STEPS = [1, 7, 11, 13] as const;

/** Folder of the files that fill the image: programs and libraries. */
const FILLING = '/usr/lib';

/** What of an image the file that fills it takes. */
const FILLED = 0.92;

/** An image in memory, and its blobs in a store. */
export interface BenchImage {
  /** Bytes of the device. */
  readonly bytes: SharedArrayBuffer;
  /** The device as a file. */
  readonly raw: string;
  readonly manifest: ReturnType<typeof imageOf>['manifest'];
  /** Has all blobs in memory. */
  readonly memory: BlobReader;
  /** Has them too, but nothing is there at once, as if it had to be fetched. */
  readonly fetched: BlobReader;
  /** Folder of a store that holds everything, and of one that holds nothing. */
  readonly fullStore: string;
  readonly emptyStore: string;
}

/**
 * Makes an ext4 image filled with programs, in four layers, and puts their blocks into a store.
 * `folder` is new.
 */
export async function makeBenchImage(
  folder: string,
  sizeMib: number,
  blocks: ZFileOptions = ZFILE_DEFAULTS,
): Promise<BenchImage> {
  mkdirSync(folder);
  const device = join(folder, 'ext4');
  const files = join(folder, 'files');
  mkdirSync(files);
  fillFile(join(files, 'data'), Math.floor(sizeMib * FILLED) * MIB);
  const options = ['-q', '-F', '-t', 'ext4', '-b', '4096', '-O', '^has_journal', '-d', files];
  await run('/usr/sbin/mke2fs', [...options, device, `${sizeMib}M`]);
  const bytes = new SharedArrayBuffer(sizeMib * MIB);
  new Uint8Array(bytes).set(readFileSync(device));
  const blobs = new Map<Digest, Uint8Array>();
  const refs: BlobRef[] = [];
  for (const step of LAYER_STEPS) {
    const path = join(folder, `layer-${step}`);
    const blob = await makeLayerBlob(path, new Uint8Array(bytes), { step, blocks });
    const digest = `sha256:${toHex(new NodeHash().sha256(blob))}` as Digest;
    blobs.set(digest, blob);
    refs.push({ digest, sizeBytes: blob.length });
  }
  const bytesOf = ({ digest }: BlobRef, offset: number, length: number): Uint8Array =>
    defined(blobs.get(digest), 'a blob of the image').subarray(offset, offset + length);
  const [fullStore, emptyStore] = [join(folder, 'full-store'), join(folder, 'empty-store')];
  for (const ref of refs) {
    const blob = bytesOf(ref, 0, ref.sizeBytes);
    await storeBlob(fullStore, ref, blob);
    await storeBlob(emptyStore, ref, blob, () => false);
  }
  const fetched: BlobReader = {
    read: (...range) => Promise.resolve(bytesOf(range[0], range[1], range[2]).slice()),
    readCached: () => undefined,
  };
  const memory: BlobReader = { ...fetched, readCached: bytesOf };
  const { manifest } = imageOf(refs, 'ext4');
  return { bytes, raw: device, manifest, memory, fetched, fullStore, emptyStore };
}

/** Fills a file with the content of programs, again from the first one when they are too few. */
function fillFile(path: string, sizeBytes: number): void {
  const fd = openSync(path, 'w');
  try {
    for (let done = 0; done < sizeBytes; ) {
      for (const source of filesIn(FILLING)) {
        const bytes = readFileSync(source);
        done += writeSync(fd, bytes, 0, Math.min(bytes.length, sizeBytes - done));
        if (done === sizeBytes) break;
      }
      if (done === 0) throw new Error(`${FILLING} has no files to fill an image with`);
    }
  } finally {
    closeSync(fd);
  }
}

/** The files in a folder and below, of some size, in the same order every time. */
function* filesIn(folder: string): Generator<string> {
  const entries = readdirSync(folder, { withFileTypes: true });
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) yield* filesIn(path);
    else if (entry.isFile() && statSync(path).size >= BLOCK_SIZE_BYTES) yield path;
  }
}

/** A layer of every `step`th MiB of the device. */
async function makeLayerBlob(
  path: string,
  device: Uint8Array,
  { step, blocks }: { step: number; blocks: ZFileOptions },
): Promise<Uint8Array> {
  const file = await LocalFile.open(path, 'create');
  try {
    const uuid = '01234567-89AB-CDEF-0123-456789ABCDEF';
    const writer = new LayerWriter(
      { codec: new NodeCodec(), sink: file },
      { virtualSizeBytes: device.length, uuid, options: blocks },
    );
    for (let at = 0; at < device.length; at += step * MIB) {
      const piece = device.slice(at, at + MIB); // Not shared: encoders take no shared memory.
      if (piece.some((byte) => byte !== 0)) await writer.write(at, piece);
    }
    await writer.finish();
  } finally {
    await file.close();
  }
  return new Uint8Array(readFileSync(path)); // Its slices are copies.
}
