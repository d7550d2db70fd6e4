import type { Codec } from '../runtime/codec.ts';
import { RawBody, readBody } from './body.ts';
import { readPart, type ByteSource } from './byte-source.ts';
import { damaged, ImageError, outOfRange, truncated } from './errors.ts';
import { IndexBudget } from './index-budget.ts';
import {
  isLsmt,
  LSMT_HEADER_BYTES,
  parseLsmtHeader,
  SECTOR_BYTES,
  SEGMENT_BYTES,
  type LsmtHeader,
} from './lsmt-header.ts';
import { parseIndex, parseIndexLog, SEGMENT_COUNT_MAX } from './lsmt-index.ts';
import { BLOCK_COUNT_MAX } from './jump-table.ts';
import type { SegmentMap } from './segment-map.ts';
import { findTarPayload, isTar, type Payload } from './tar.ts';
import { ZFileBody } from './zfile.ts';
import { isZFile } from './zfile-header.ts';

/** First bytes of a blob, read at once: they hold the headers of all wrappers. */
const HEAD_BYTES = 8 * 1024;

/** An open layer of a block image: immutable, without state of its own. */
export interface Layer {
  readonly source: ByteSource;
  /** Where the layer lies in its blob: the whole blob, unless a tar wraps it. */
  readonly payload: Payload;
  readonly body: RawBody | ZFileBody;
  /** Bytes of the block device; 0 when the layer does not say. */
  readonly virtualSizeBytes: number;
  readonly uuid: string;
  readonly parentUuid: string;
  /** Rows of data have layer number 0. */
  readonly segments: SegmentMap;
}

/**
 * Opens a committed layer: LSMT, optionally in a ZFile, optionally in a tar. Reads the source four
 * times: the head, the jump table, the LSMT trailer and the index. Of the data it checks only the
 * place. Throws ImageError for anything wrong with the blob. Layers of one image share a `budget`.
 */
export async function openLayer(
  source: ByteSource,
  codec: Codec,
  budget?: IndexBudget,
): Promise<Layer> {
  const { headed, payload, start } = await startOf(source);
  const body = isZFile(start)
    ? await ZFileBody.open(headed, payload, { codec, budget })
    : new RawBody(payload);
  const { trailer, segments } = await readCommitted(headed, body, budget);
  return {
    source,
    payload,
    body,
    virtualSizeBytes: trailer.virtualSizeBytes,
    uuid: trailer.uuid,
    parentUuid: trailer.parentUuid,
    segments,
  };
}

/** Throws ImageError unless a blob begins as a committed layer does; reads no more than that. */
export async function requireLayer(source: ByteSource): Promise<void> {
  await startOf(source);
}

async function startOf(source: ByteSource) {
  const headed = await withHead(source);
  const payload = await findPayload(headed);
  const start = await readPart(headed, payload.offset, Math.min(24, payload.sizeBytes), 'layer');
  if (!isZFile(start) && !isLsmt(start)) throw notALayer(start);
  return { headed, payload, start };
}

/**
 * Opens a writable layer in append mode from its data file and its index file. Throws ImageError.
 */
export async function openAppendLayer(data: ByteSource, index: ByteSource): Promise<Layer> {
  const payload = { offset: 0, sizeBytes: data.sizeBytes };
  const first = await readPart(data, 0, LSMT_HEADER_BYTES, 'LSMT header');
  const header = parseLsmtHeader(first, 'LSMT header');
  if (header.isSealed || header.isSparse || !header.isData) {
    throw new ImageError('data file does not belong to a writable layer in append mode', {
      code: 'unsupported',
      part: 'LSMT header',
    });
  }
  const start = await readPart(index, 0, LSMT_HEADER_BYTES, 'LSMT index header');
  const { uuid, indexOffset } = parseLsmtHeader(start, 'LSMT index header');
  if (uuid !== header.uuid) {
    throw damaged('LSMT index header', `its uuid is ${uuid}, but the data file has ${header.uuid}`);
  }
  const entryCount = Math.floor((index.sizeBytes - indexOffset) / SEGMENT_BYTES);
  checkIndexPlace(indexOffset, Math.max(0, entryCount), index.sizeBytes);
  const bytes = await readPart(index, indexOffset, entryCount * SEGMENT_BYTES, 'LSMT index');
  const segments = parseIndexLog(bytes, {
    virtualSectors: header.virtualSizeBytes / SECTOR_BYTES,
    dataEndSectors: Math.floor(data.sizeBytes / SECTOR_BYTES),
  });
  const { virtualSizeBytes, parentUuid } = header;
  const body = new RawBody(payload);
  return { source: data, payload, body, virtualSizeBytes, uuid, parentUuid, segments };
}

/** For the layers of one image together, as much as for one layer. */
export function imageBudget(): IndexBudget {
  return new IndexBudget({ entriesMax: SEGMENT_COUNT_MAX, blocksMax: BLOCK_COUNT_MAX });
}

async function findPayload(source: ByteSource): Promise<Payload> {
  const length = Math.min(SECTOR_BYTES, source.sizeBytes);
  const start = await readPart(source, 0, length, 'layer');
  return isTar(start) ? findTarPayload(source) : { offset: 0, sizeBytes: source.sizeBytes };
}

async function readCommitted(
  source: ByteSource,
  body: RawBody | ZFileBody,
  budget: IndexBudget | undefined,
): Promise<{ trailer: LsmtHeader; segments: SegmentMap }> {
  if (body.sizeBytes < 2 * LSMT_HEADER_BYTES) {
    throw truncated('LSMT file', `${body.sizeBytes} bytes are too few for a header and a trailer`);
  }
  const length = LSMT_HEADER_BYTES;
  const first = await readBody(source, body, { offset: 0, length }, 'LSMT header');
  const header = parseLsmtHeader(first, 'LSMT header');
  if (!header.isSealed || !header.isHeader) {
    throw new ImageError(
      'layer is not committed: a writable layer keeps its index in a file of its own; ' +
        'commit it first',
      { code: 'unsupported', part: 'LSMT header' },
    );
  }
  const at = body.sizeBytes - length;
  const last = await readBody(source, body, { offset: at, length }, 'LSMT trailer');
  const trailer = parseLsmtHeader(last, 'LSMT trailer');
  if (trailer.isHeader || !trailer.isSealed) {
    throw damaged('LSMT trailer', 'its flags do not fit the trailer of a committed layer');
  }
  const { indexOffset, segmentCount } = trailer;
  checkIndexPlace(indexOffset, segmentCount, at);
  budget?.takeEntries(segmentCount);
  const range = { offset: indexOffset, length: segmentCount * SEGMENT_BYTES };
  const index = await readBody(source, body, range, 'LSMT index');
  const segments = parseIndex(index, {
    virtualSectors: trailer.virtualSizeBytes / SECTOR_BYTES,
    dataEndSectors: Math.floor(indexOffset / SECTOR_BYTES),
  });
  return { trailer, segments };
}

function checkIndexPlace(indexOffset: number, segmentCount: number, limit: number): void {
  if (segmentCount > SEGMENT_COUNT_MAX) {
    throw outOfRange(
      'LSMT index_size',
      segmentCount,
      `at most ${SEGMENT_COUNT_MAX} entries are read`,
    );
  }
  if (indexOffset < LSMT_HEADER_BYTES || indexOffset + segmentCount * SEGMENT_BYTES > limit) {
    throw outOfRange(
      'LSMT index_offset',
      indexOffset,
      `${segmentCount} entries must lie between bytes ${LSMT_HEADER_BYTES} and ${limit}`,
    );
  }
}

/** The source with its first bytes in memory. */
async function withHead(source: ByteSource): Promise<ByteSource> {
  const head = await source.read(0, Math.min(HEAD_BYTES, source.sizeBytes));
  return {
    sizeBytes: source.sizeBytes,
    read: (offset, length) =>
      offset + length <= head.length
        ? Promise.resolve(head.subarray(offset, offset + length))
        : source.read(offset, length),
  };
}

function notALayer(start: Uint8Array): ImageError {
  const gzip = start[0] === 0x1f && start[1] === 0x8b;
  const what = gzip
    ? 'is gzip: an ordinary OCI layer; convert it first'
    : 'has neither the magic number of a ZFile nor the one of LSMT';
  return new ImageError(`blob is not a block layer: its content ${what}`, { code: 'not-a-layer' });
}
