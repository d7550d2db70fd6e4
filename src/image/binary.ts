import { outOfRange } from './errors.ts';

/** A view of `bytes` for reads and writes of numbers in it. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * The little-endian u64 at `offset`. Throws ImageError above 2^53 - 1, which no real size exceeds.
 */
export function readU64(view: DataView, offset: number, part: string): number {
  const value = view.getUint32(offset + 4, true) * 2 ** 32 + view.getUint32(offset, true);
  if (!Number.isSafeInteger(value))
    throw outOfRange(part, value, 'sizes and offsets must stay below 2^53');
  return value;
}

/** Writes a non-negative safe integer as a little-endian u64. */
export function writeU64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value % 2 ** 32, true);
  view.setUint32(offset + 4, Math.floor(value / 2 ** 32), true);
}

/** Whether `bytes` starts with `magic`. */
export function startsWith(bytes: Uint8Array, magic: Uint8Array): boolean {
  if (bytes.length < magic.length) return false;
  for (let i = 0; i < magic.length; i++) if (bytes[i] !== magic[i]) return false;
  return true;
}

/** `value` rounded up to a multiple of `unit`. */
export function ceilTo(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}
