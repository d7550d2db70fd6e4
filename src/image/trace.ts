import type { Codec } from '../runtime/codec.ts';
import { readU64, viewOf, writeU64 } from './binary.ts';
import { rawCrc32c } from './checksum.ts';
import { damaged, outOfRange, truncated } from './errors.ts';
import { LAYER_SIZE_BYTES_MAX } from './zfile-header.ts';
import { LAYER_COUNT_MAX } from './manifest.ts';

const MAGIC = 0xc2ef1820;
const HEADER_BYTES = 24;
const RECORD_BYTES = 24;
const OPS = { R: 'read', W: 'write' } as const;

/** Most accesses of a trace that is read: far more than the start of a container makes. */
export const TRACE_ACCESSES_MAX = 2 ** 21;

/** One access of a container to the uncompressed bytes [offset, offset + length) of a layer. */
export interface TraceAccess {
  readonly op: (typeof OPS)[keyof typeof OPS];
  /** Number of the layer, bottom first. */
  readonly layer: number;
  readonly offset: number;
  readonly length: number;
}

/** Whether bytes begin as a trace does. */
export function isTrace(start: Uint8Array): boolean {
  return start.length >= 4 && viewOf(start).getUint32(0, true) === MAGIC;
}

/** Throws ImageError when a trace of `sizeBytes` holds more than `accessesMax` accesses. */
export function checkTraceSize(sizeBytes: number, accessesMax: number): void {
  const sizeBytesMax = HEADER_BYTES + RECORD_BYTES * accessesMax;
  if (sizeBytes <= sizeBytesMax) return;
  throw outOfRange('trace size', sizeBytes, `at most ${sizeBytesMax} bytes are read`);
}

/**
 * Reads a trace as overlaybd records it: accesses in order. Throws ImageError.
 *
 *     header:  0 magic u32 | 8 bytes of records u64 | 16 raw CRC-32C of the records u32
 *     record:  0 op 'R' or 'W' | 4 layer u32 | 8 count u64 | 16 offset i64
 */
export function parseTrace(bytes: Uint8Array, codec: Codec): TraceAccess[] {
  checkTraceSize(bytes.length, TRACE_ACCESSES_MAX);
  if (bytes.length < HEADER_BYTES) throw truncated('trace', `it has ${bytes.length} bytes`);
  const view = viewOf(bytes);
  if (view.getUint32(0, true) !== MAGIC) throw damaged('trace', 'its magic number is wrong');
  const size = readU64(view, 8, 'trace data_size');
  if (size % RECORD_BYTES !== 0 || HEADER_BYTES + size > bytes.length) {
    throw outOfRange(
      'trace data_size',
      size,
      `it must be a multiple of ${RECORD_BYTES} up to ` +
        `the ${bytes.length - HEADER_BYTES} bytes after the header`,
    );
  }
  const end = HEADER_BYTES + size;
  if (rawCrc32c(codec, bytes.subarray(HEADER_BYTES, end), 0) !== view.getUint32(16, true)) {
    throw damaged('trace', 'the CRC of its records is wrong');
  }
  const accesses: TraceAccess[] = [];
  for (let at = HEADER_BYTES; at < end; at += RECORD_BYTES) accesses.push(parseAccess(view, at));
  return accesses;
}

/** Writes a trace in the form that `parseTrace()` reads. */
export function encodeTrace(accesses: readonly TraceAccess[], codec: Codec): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + accesses.length * RECORD_BYTES);
  const view = viewOf(bytes);
  accesses.forEach(({ op, layer, offset, length }, i) => {
    const at = HEADER_BYTES + i * RECORD_BYTES;
    view.setUint8(at, (op === 'read' ? 'R' : 'W').charCodeAt(0));
    view.setUint32(at + 4, layer, true);
    writeU64(view, at + 8, length);
    writeU64(view, at + 16, offset);
  });
  view.setUint32(0, MAGIC, true);
  writeU64(view, 8, accesses.length * RECORD_BYTES);
  view.setUint32(16, rawCrc32c(codec, bytes.subarray(HEADER_BYTES), 0), true);
  return bytes;
}

function parseAccess(view: DataView, at: number): TraceAccess {
  const name = `trace record ${(at - HEADER_BYTES) / RECORD_BYTES}`;
  const op = OPS[String.fromCharCode(view.getUint8(at)) as keyof typeof OPS] as
    | TraceAccess['op']
    | undefined;
  if (op === undefined)
    throw damaged(name, `its operation is byte ${view.getUint8(at)} instead of R or W`);
  const layer = view.getUint32(at + 4, true);
  if (layer >= LAYER_COUNT_MAX) {
    throw outOfRange(`${name} layer`, layer, `an image has at most ${LAYER_COUNT_MAX} layers`);
  }
  const length = readU64(view, at + 8, `${name} count`);
  const offset = readU64(view, at + 16, `${name} offset`);
  if (offset + length > LAYER_SIZE_BYTES_MAX) {
    throw outOfRange(
      `${name} end`,
      offset + length,
      `a layer has at most ${LAYER_SIZE_BYTES_MAX} bytes`,
    );
  }
  return { op, layer, offset, length };
}
