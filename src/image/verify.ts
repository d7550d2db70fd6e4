import type { Codec } from '../runtime/codec.ts';
import { readBody } from './body.ts';
import { readPart } from './byte-source.ts';
import { damaged } from './errors.ts';
import type { Layer } from './layer.ts';
import { parseZFileHeader, ZFILE_HEADER_BYTES } from './zfile-header.ts';

/** Uncompressed bytes that are checked at a time; a multiple of every block size. */
const CHUNK_BYTES = 1024 * 1024;

export interface VerifyOptions {
  readonly signal?: AbortSignal;
  /** Told how much of the uncompressed bytes is done. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

/** What a check covered. */
export interface VerifyResult {
  /** Blocks that were checked; 0 when the layer is not compressed. */
  readonly blockCount: number;
  /** Whether checksums cover the data: not for a layer without ZFile, or with a ZFile made without them. */
  readonly isCovered: boolean;
}

/**
 * Checks an open layer as a whole: every block against its CRC and by decoding it, and the trailer of its ZFile against
 * the header. The rest was checked when it was opened. Throws ImageError for the first thing wrong.
 */
export async function verifyLayer(
  layer: Layer,
  codec: Codec,
  options: VerifyOptions = {},
): Promise<VerifyResult> {
  const { body, source } = layer;
  await verifyTrailer(layer, codec);
  for (let offset = 0; offset < body.sizeBytes; offset += CHUNK_BYTES) {
    options.signal?.throwIfAborted();
    const length = Math.min(CHUNK_BYTES, body.sizeBytes - offset);
    await readBody(source, body, { offset, length }, 'layer data');
    options.onProgress?.(offset + length, body.sizeBytes);
  }
  if (body.kind === 'raw') return { blockCount: 0, isCovered: false };
  return { blockCount: body.header.blockCount, isCovered: body.header.verify };
}

async function verifyTrailer(layer: Layer, codec: Codec): Promise<void> {
  const { body, payload, source } = layer;
  if (body.kind === 'raw') return;
  const at = payload.offset + payload.sizeBytes - ZFILE_HEADER_BYTES;
  const sector = await readPart(source, at, ZFILE_HEADER_BYTES, 'ZFile trailer');
  const trailer = parseZFileHeader(sector, 'ZFile trailer', codec);
  for (const field of ['indexOffset', 'blockCount', 'sizeBytes', 'blockSizeBytes'] as const) {
    if (trailer[field] !== body.header[field]) {
      throw damaged(
        'ZFile trailer',
        `its ${field} is ${trailer[field]}, the header's ${body.header[field]}`,
      );
    }
  }
}
