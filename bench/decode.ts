import type { ConversionResult } from '../src/convert/convert-image.ts';
import { LocalFile, piecesOfFile } from '../src/convert/files.ts';
import { blobPath } from '../src/convert/oci-layout.ts';
import { openLayer } from '../src/image/layer.ts';
import type { ImageSegment } from '../src/image/layer-stack.ts';
import { LayeredImage } from '../src/image/layered-image.ts';
import { NodeCodec } from '../src/runtime/node/codec.ts';
import { NodeDecompressor } from '../src/runtime/node/decompressor.ts';
import { defined } from '../src/util/assert.ts';
import { MIB } from '../src/util/bytes.ts';
import { makeDebianImages, type DebianLayer } from '../test/kit/debian-image.ts';
import type { LayerName } from '../test/kit/debian-layers.ts';
import { debianFault } from '../test/kit/debian-packages.ts';
import { withEndings } from '../test/kit/endings.ts';
import { needs } from '../test/kit/requires.ts';
import { tempFolder } from '../test/kit/temp-folder.ts';
import { runXylem } from './cli.ts';
import { timed, type BenchRow } from './rows.ts';

const LAYERS: Readonly<Record<Size, readonly LayerName[]>> = {
  full: ['base', 'python', 'numpy', 'node', 'chromium', 'model'],
  smoke: ['base'],
};

/** Places in each layer where its first byte is looked for. */
const PLACES = { full: { gzip: 4, blocks: 200 }, smoke: { gzip: 2, blocks: 10 } };

/** Bytes that are decoded at a time, and at a random place. */
const CHUNK_BYTES = MIB;
const READ_BYTES = 4096;

const ALGORITHMS = ['lz4', 'zstd'] as const;

type Size = 'full' | 'smoke';

const codec = new NodeCodec();

/** How fast a form of the layers is read. */
interface Speed {
  seconds: number;
  bytes: number;
  /** Until the first byte at a place of a layer that was not open. */
  readonly firstMs: number[];
}

/**
 * Decodes all layers of an image of Debian packages, as gzip and as the blocks that the conversion
 * made of them, in one process; and looks for single bytes in them. Needs apt and e2fsprogs.
 */
export async function benchDecode(options: { smoke: boolean }): Promise<BenchRow[]> {
  const fault = needs.program('mke2fs')() ?? debianFault();
  if (fault !== undefined) {
    process.stderr.write(`decode: skipped: ${fault}\n`);
    return [];
  }
  const size: Size = options.smoke ? 'smoke' : 'full';
  return withEndings(async (atEnd) => {
    const layout = tempFolder(atEnd);
    const { images } = await makeDebianImages(layout, { image: LAYERS[size] });
    const layers = defined(images['image'], 'the image was made');
    const rows = rowsOf('gzip', await decodeGzip(layout, layers, PLACES[size].gzip), layers);
    for (const algorithm of ALGORITHMS) {
      const converted = await runXylem<ConversionResult>([
        'convert',
        ...['--no-reuse', '--compression', algorithm],
        `oci:${layout}:image`,
        `oci:${layout}:${algorithm}`,
      ]);
      const blocks = defined(converted.printed.platforms[0], 'an image has a platform').layers;
      const paths = blocks.map(({ digest }) => blobPath(layout, digest));
      const speed = await decodeBlocks(paths, PLACES[size].blocks);
      rows.push(...rowsOf(`${algorithm} blocks`, speed, blocks));
    }
    return rows;
  });
}

async function decodeGzip(
  layout: string,
  layers: readonly DebianLayer[],
  places: number,
): Promise<Speed> {
  const speed: Speed = { seconds: 0, bytes: 0, firstMs: [] };
  for (const { digest, tarBytes } of layers) {
    const path = blobPath(layout, digest);
    speed.seconds += await timed(async () => {
      speed.bytes += await gunzipUpTo(path, Infinity);
    });
    for (let i = 0; i < places; i++) {
      const place = placeIn(tarBytes, i, places);
      speed.firstMs.push(1000 * (await timed(() => gunzipUpTo(path, place))));
    }
  }
  return speed;
}

/** Decodes a file from its start until the byte at a place has come; the bytes that came. */
async function gunzipUpTo(path: string, place: number): Promise<number> {
  let bytes = 0;
  const decoded = new NodeDecompressor().decompress('gzip', piecesOfFile(path));
  for await (const piece of decoded) {
    bytes += piece.length;
    if (bytes > place) break;
  }
  return bytes;
}

async function decodeBlocks(paths: readonly string[], places: number): Promise<Speed> {
  const speed: Speed = { seconds: 0, bytes: 0, firstMs: [] };
  for (const path of paths) {
    const segments = await withLayer(path, async (image) => {
      const mapped = mappedIn(image);
      speed.seconds += await timed(() => readAll(image, mapped));
      return mapped;
    });
    const bytes = segments.reduce((sum, { length }) => sum + length, 0);
    speed.bytes += bytes;
    for (let i = 0; i < places; i++) {
      const offset = offsetOf(placeIn(bytes, i, places), segments);
      const once = (): Promise<unknown> =>
        withLayer(path, (image) => image.read(offset, READ_BYTES));
      speed.firstMs.push(1000 * (await timed(once)));
    }
  }
  return speed;
}

async function withLayer<T>(path: string, use: (image: LayeredImage) => Promise<T>): Promise<T> {
  const file = await LocalFile.open(path, 'read');
  try {
    return await use(new LayeredImage([await openLayer(file, codec)]));
  } finally {
    await file.close();
  }
}

function mappedIn(image: LayeredImage): readonly ImageSegment[] {
  return image.segmentsIn(0, image.sizeBytes).filter(({ layer }) => layer !== undefined);
}

async function readAll(image: LayeredImage, segments: readonly ImageSegment[]): Promise<void> {
  const target = new Uint8Array(CHUNK_BYTES);
  for (const { offset, length } of segments) {
    for (let done = 0; done < length; done += CHUNK_BYTES) {
      const count = Math.min(CHUNK_BYTES, length - done);
      await image.fetchInto(target.subarray(0, count), offset + done);
    }
  }
}

/** A place in each of the equal parts of a layer, the same in every run. */
function placeIn(bytes: number, part: number, parts: number): number {
  return Math.floor((bytes / parts) * (part + ((part * 0.618 + 0.5) % 1)));
}

/** The offset on the device of a byte of the mapped ones, at the start of its block. */
function offsetOf(place: number, segments: readonly ImageSegment[]): number {
  let left = place;
  for (const { offset, length } of segments) {
    if (left < length) return offset + left - (left % READ_BYTES);
    left -= length;
  }
  throw new RangeError(`no byte ${place} is mapped`);
}

function rowsOf(
  what: string,
  { seconds, bytes, firstMs }: Speed,
  blobs: readonly { readonly sizeBytes: number }[],
): BenchRow[] {
  const blobMb = blobs.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0) / 1e6;
  const sorted = firstMs.toSorted((a, b) => a - b);
  const mean = firstMs.reduce((sum, ms) => sum + ms, 0) / firstMs.length;
  return [
    {
      bench: 'decode',
      what,
      value: bytes / 1e6 / seconds,
      unit: 'MB/s',
      note: `${(bytes / 1e6).toFixed(0)} MB of ${blobMb.toFixed(0)} MB`,
    },
    {
      bench: 'decode',
      what: `${what}, first byte at a random place`,
      value: mean,
      unit: 'ms',
      note: `mean; longest ${(sorted.at(-1) ?? 0).toFixed(1)} ms`,
    },
  ];
}
