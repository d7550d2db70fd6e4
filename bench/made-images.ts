import { createCipheriv } from 'node:crypto';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { blobPath, prepareLayout } from '../src/convert/oci-layout.ts';
import { MIB } from '../src/util/bytes.ts';
import { packLayer, putGzipImage, type GzipLayer } from '../test/kit/gzip-image.ts';
import { bytesOf, END, header, member } from '../test/kit/tar-encoder.ts';

/** Files that go to the compressor at a time. */
const FILES_PER_PIECE = 1000;

/** Bytes of one file of a large image. */
const FILE_BYTES = 512 * MIB;

/** New bytes of each 4 KiB; the rest repeats them, as compressible content does. */
const NEW_BYTES = 512;

/** Puts an image with `count` small files in one directory into an OCI layout folder. */
export function makeManyFiles(layout: string, tag: string, count: number): Promise<GzipLayer> {
  return makeImage(layout, tag, manyFiles(count));
}

/** Puts an image of large files, `bytes` together, into an OCI layout folder. */
export function makeLargeImage(layout: string, tag: string, bytes: number): Promise<GzipLayer> {
  return makeImage(layout, tag, largeFiles(bytes));
}

async function makeImage(
  layout: string,
  tag: string,
  tar: AsyncIterable<Uint8Array>,
): Promise<GzipLayer> {
  await prepareLayout(layout);
  const part = join(layout, 'blobs', 'part');
  const layer = await packLayer(tar, part, { level: 1 });
  await rename(part, blobPath(layout, layer.digest));
  await putGzipImage(layout, tag, [layer]);
  return layer;
}

async function* manyFiles(count: number): AsyncGenerator<Uint8Array> {
  yield header({ path: 'many/', type: '5', mode: 0o755 });
  for (let from = 0; from < count; from += FILES_PER_PIECE) {
    const members = Array.from({ length: Math.min(FILES_PER_PIECE, count - from) }, (_, i) =>
      member({ path: `many/file-${from + i}.txt` }, bytesOf(`number ${from + i}\n`)),
    );
    yield Buffer.concat(members);
  }
  yield END;
}

async function* largeFiles(bytes: number): AsyncGenerator<Uint8Array> {
  const random = createCipheriv('aes-128-ctr', Buffer.alloc(16), Buffer.alloc(16));
  const zeros = Buffer.alloc(MIB / (4096 / NEW_BYTES));
  for (let from = 0; from < bytes; from += FILE_BYTES) {
    const size = Math.min(FILE_BYTES, bytes - from);
    yield header({ path: `file-${from / FILE_BYTES}`, size });
    for (let done = 0; done < size; done += MIB) yield repeating(random.update(zeros));
  }
  yield END;
}

/** 1 MiB in which each block of 4 KiB repeats bytes of its own. */
function repeating(fresh: Buffer): Buffer {
  const piece = Buffer.allocUnsafe(MIB);
  for (let at = 0; at < MIB; at += NEW_BYTES) {
    const from = Math.floor(at / 4096) * NEW_BYTES;
    fresh.copy(piece, at, from, from + NEW_BYTES);
  }
  return piece;
}
