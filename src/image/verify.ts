import type { Codec } from '../runtime/codec.ts';
import { readBody } from './body.ts';
import { readPart } from './byte-source.ts';
import { damaged } from './errors.ts';
import type { Layer } from './layer.ts';
import { parseZFileHeader, ZFILE_HEADER_BYTES } from './zfile-header.ts';

/** Uncompressed bytes checked at a time: a multiple of every block size. */
const CHUNK_BYTES = 1024 * 1024;

/** How to stop a check, and where to report its progress. */
export interface VerifyOptions {
  readonly signal?: AbortSignal;
  /** Called with the uncompressed bytes checked so far, and with all of them. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

/** How much a check covered. */
export interface VerifyResult {
  /** Number of checked blocks; 0 when the layer is not compressed. */
  readonly blockCount: number;
  /**
   * Whether checksums cover the data. False for a layer without a ZFile, or with a ZFile without
   * checksums.
   */
  readonly isCovered: boolean;
}

/**
 * Checks a whole open layer: decodes each block, checks its CRC, and compares the trailer of the
 * ZFile with its header. `openLayer()` has checked the rest. Throws ImageError for the first
 * defect.
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
        `its ${field} is ${trailer[field]}, but the header has ${body.header[field]}`,
      );
    }
  }
}
