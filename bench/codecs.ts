import { createHash } from 'node:crypto';
import { memorySource, type ByteSink } from '../src/image/byte-source.ts';
import { openLayer } from '../src/image/layer.ts';
import { LayerWriter } from '../src/image/layer-writer.ts';
import { LayeredImage } from '../src/image/layered-image.ts';
import { NodeCodec } from '../src/runtime/node/codec.ts';
import { NodeHash } from '../src/runtime/node/hash.ts';
import type { BenchRow } from './rows.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

/** Block sizes to measure. */
const SIZES = [4 * KIB, 64 * KIB, MIB] as const;

/**
 * Sizes of ZFile blocks that the bench writes and reads end to end; it only reads 64 KiB blocks.
 */
const ZFILE_SIZES = [4 * KIB, 32 * KIB] as const;

/** Bytes through each codec at full and at smoke size. */
const VOLUME_BYTES = { full: 256 * MIB, smoke: 2 * MIB };

/** Speed of codecs and hashes per block size, and of a layer end to end; on one thread. */
export async function benchCodecs(options: { smoke: boolean }): Promise<BenchRow[]> {
  const volume = options.smoke ? VOLUME_BYTES.smoke : VOLUME_BYTES.full;
  const rows: BenchRow[] = [];
  for (const size of SIZES) rows.push(...benchBlocks(size, volume));
  for (const size of ZFILE_SIZES) rows.push(...(await benchLayer(size, volume / 4)));
  return rows;
}

function benchBlocks(size: number, volume: number): BenchRow[] {
  const [codec, hash] = [new NodeCodec(), new NodeHash()];
  const block = mixedBytes(size);
  const [lz4, zstd] = [codec.lz4Encode(block), codec.zstdEncode(block)];
  const decoded = new Uint8Array(size);
  const work: Record<string, () => unknown> = {
    'LZ4 encode': () => codec.lz4Encode(block),
    'LZ4 decode': () => codec.lz4Decode(lz4, decoded),
    'ZSTD decode': () => codec.zstdDecode(zstd, decoded),
    'CRC-32C': () => codec.crc32c(block),
    'SHA-256': () => hash.sha256(block),
    BLAKE3: () => hash.blake3(block),
  };
  return Object.entries(work).map(([name, once]) => {
    const count = Math.max(1, Math.floor(volume / size));
    const seconds = secondsOf(() => {
      for (let i = 0; i < count; i++) once();
    });
    return row(`${name} ${size / KIB} KiB`, (count * size) / MIB / seconds);
  });
}

async function benchLayer(blockSizeBytes: number, volume: number): Promise<BenchRow[]> {
  const codec = new NodeCodec();
  const data = mixedBytes(volume);
  const blob = Buffer.alloc(volume * 2 + MIB);
  const sink: ByteSink = {
    write: (offset, bytes) => {
      blob.set(bytes, offset);
      return Promise.resolve();
    },
  };
  const uuid = '00000000-0000-4000-8000-000000000001';
  const options = { blockSizeBytes, algorithm: 'lz4' as const };
  const writer = new LayerWriter({ codec, sink }, { virtualSizeBytes: volume, uuid, options });
  const from = performance.now();
  for (let at = 0; at < volume; at += MIB) await writer.write(at, data.subarray(at, at + MIB));
  const sizeBytes = await writer.finish();
  const written = row(
    `layer write ${blockSizeBytes / KIB} KiB blocks`,
    volume / MIB / ((performance.now() - from) / 1000),
  );
  const layer = await openLayer(memorySource(blob.subarray(0, sizeBytes)), codec);
  const image = new LayeredImage([layer]);
  const hash = createHash('sha256').update(blob.subarray(0, sizeBytes)).digest('hex');
  const read = [128 * KIB, 4 * KIB].map((length) => {
    const target = new Uint8Array(length);
    const seconds = secondsOf(() => {
      for (let at = 0; at + length <= volume; at += length) {
        image.readInto(target, at, [(offset, count) => blob.subarray(offset, offset + count)]);
      }
    });
    const what = `layer read ${blockSizeBytes / KIB} KiB blocks, ${length / KIB} KiB reads`;
    return { ...row(what, volume / MIB / seconds), note: `blob sha256 ${hash.slice(0, 16)}` };
  });
  return [written, ...read];
}

function row(what: string, value: number): BenchRow {
  return { bench: 'codecs', what, value: Math.round(value), unit: 'MiB/s' };
}

/** Seconds of the second run: the first run pays for compiling and for fresh memory. */
function secondsOf(work: () => void): number {
  work();
  const from = performance.now();
  work();
  return Math.max(1e-6, (performance.now() - from) / 1000);
}

/** Bytes that compress to about half, as programs do; always the same. */
function mixedBytes(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  let state = 1;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = i % 64 < 32 ? state >>> 24 : (i >>> 6) & 0xff;
  }
  return bytes;
}
