import { digestBytes, digestOfSha256 } from '../image/digest.ts';
import type { Codec } from '../runtime/codec.ts';
import { bytesEqual } from '../util/bytes.ts';
import type { GroupUse } from './group-table.ts';
import { STORE_VERSION } from './layout.ts';

/** First bytes of the usage file. */
const MAGIC = new TextEncoder().encode('xylemuse');

const HEADER_BYTES = 16;
const ENTRY_BYTES = 44;
const CRC_BYTES = 4;
const FLAG_PROVEN = 1;

/**
 * Most groups with remembered uses: 4 TiB of full groups, in 11 MiB. Beyond it, the least recently
 * used are forgotten.
 */
const USES_MAX = 262_144;

/** Bytes of the largest usage file. */
export const USAGE_BYTES_MAX: number = HEADER_BYTES + USES_MAX * ENTRY_BYTES + CRC_BYTES;

type Crc = Pick<Codec, 'crc32c'>;

/**
 * Encodes when groups were last used. The file may be lost without harm.
 *
 *     magic "xylemuse" (8) | version u32 | count u32 | entries of 44 | CRC-32C of all before, u32
 *     entry: blob sha256 (32) | group u32 | last use u32, seconds since 1970
 *            flags u32 (1 = proven)
 */
export function encodeUsage(codec: Crc, uses: readonly GroupUse[]): Uint8Array {
  const kept = uses.slice(-USES_MAX);
  const bytes = new Uint8Array(HEADER_BYTES + kept.length * ENTRY_BYTES + CRC_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(MAGIC, 0);
  view.setUint32(8, STORE_VERSION, true);
  view.setUint32(12, kept.length, true);
  let at = HEADER_BYTES;
  for (const { digest, index, proven, lastUseMs } of kept) {
    bytes.set(digestBytes(digest), at);
    view.setUint32(at + 32, index, true);
    view.setUint32(at + 36, Math.max(0, Math.floor(lastUseMs / 1000)), true);
    view.setUint32(at + 40, proven ? FLAG_PROVEN : 0, true);
    at += ENTRY_BYTES;
  }
  view.setUint32(at, codec.crc32c(bytes.subarray(0, at)), true);
  return bytes;
}

/** The uses in a file; undefined when it is damaged or of another version. */
export function decodeUsage(codec: Crc, bytes: Uint8Array): GroupUse[] | undefined {
  const end = bytes.length - CRC_BYTES;
  if (end < HEADER_BYTES || !bytesEqual(bytes.subarray(0, 8), MAGIC)) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const count = view.getUint32(12, true);
  if (view.getUint32(8, true) !== STORE_VERSION) return undefined;
  if (HEADER_BYTES + count * ENTRY_BYTES !== end) return undefined;
  if (view.getUint32(end, true) !== codec.crc32c(bytes.subarray(0, end))) return undefined;
  return Array.from({ length: count }, (_, i) => {
    const at = HEADER_BYTES + i * ENTRY_BYTES;
    return {
      digest: digestOfSha256(bytes.subarray(at, at + 32)),
      index: view.getUint32(at + 32, true),
      lastUseMs: view.getUint32(at + 36, true) * 1000,
      proven: view.getUint32(at + 40, true) === FLAG_PROVEN,
    };
  });
}
