import {
  blockIndex,
  BLOB_SIZE_BYTES_MAX,
  type BlobOrigin,
  type BlockIndex,
} from '../../image/block.ts';
import { digestBytes, parseDigest, type Digest } from '../../image/digest.ts';
import { defined } from '../../util/assert.ts';
import { toHex } from '../../util/bytes.ts';
import { peerId, type PeerId } from '../../util/peer-id.ts';
import type { ByteReader } from './byte-reader.ts';
import type { ByteWriter } from './byte-writer.ts';
import { WireError, badValue, overLimit } from './errors.ts';

/** Bytes of a registry's and a repository's name (the distribution spec names 255 as the usual bound), an address, a zone. */
const NAME_BYTES_MAX = 255;

/** Base58 of a key: 52 characters for Ed25519; other kinds are no hosts of ours. */
const PEER_ID_BYTES_MAX = 64;
const PEER_ID = /^[1-9A-HJ-NP-Za-km-z]{32,64}$/;

const DIGEST_BYTES = 32;

/** Blocks that the largest blob may have. */
const BLOCK_INDEX_MAX = 2 ** 32 - 1;

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Text behind its length in bytes (u16). */
export function writeText(writer: ByteWriter, field: string, text: string, maxBytes: number): void {
  // Names and addresses: a tenth of the cost of the encoder.
  if (text.length <= maxBytes && isAscii(text)) {
    writer.u16(text.length);
    writer.ascii(text);
    return;
  }
  const bytes = encoder.encode(text);
  if (bytes.length > maxBytes) throw overLimit(field, bytes.length, maxBytes);
  writer.u16(bytes.length);
  writer.raw(bytes);
}

function isAscii(text: string): boolean {
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) > 0x7f) return false;
  return true;
}

export function readText(reader: ByteReader, field: string, maxBytes: number): string {
  const length = reader.u16();
  if (length > maxBytes) throw overLimit(field, length, maxBytes);
  try {
    return decoder.decode(reader.raw(length));
  } catch (cause) {
    if (cause instanceof WireError) throw cause;
    throw new WireError(`wire field ${field} is not UTF-8`, { code: 'utf8', field }, { cause });
  }
}

/** A name or an address: text of at most 255 bytes. */
export function writeName(writer: ByteWriter, field: string, name: string): void {
  writeText(writer, field, name, NAME_BYTES_MAX);
}

export function readName(reader: ByteReader, field: string): string {
  return readText(reader, field, NAME_BYTES_MAX);
}

export function writePeer(writer: ByteWriter, peer: PeerId): void {
  writeText(writer, 'peer', peer, PEER_ID_BYTES_MAX);
}

export function readPeer(reader: ByteReader): PeerId {
  const text = readText(reader, 'peer', PEER_ID_BYTES_MAX);
  if (!PEER_ID.test(text)) throw badValue('peer', 'a peer id', text);
  return peerId(text);
}

/** The 32 bytes of a sha256. */
export function writeDigest(writer: ByteWriter, digest: Digest): void {
  writer.raw(digestBytes(digest));
}

export function readDigest(reader: ByteReader): Digest {
  return defined(parseDigest(`sha256:${toHex(reader.raw(DIGEST_BYTES))}`), '32 bytes are a sha256');
}

export function writeSize(writer: ByteWriter, sizeBytes: number): void {
  writer.u64(sizeBytes);
}

export function readSize(reader: ByteReader): number {
  const sizeBytes = reader.u64('size');
  if (sizeBytes > BLOB_SIZE_BYTES_MAX) {
    throw badValue('size', `at most ${BLOB_SIZE_BYTES_MAX}`, sizeBytes);
  }
  return sizeBytes;
}

/** Yes or no: 1 or 0. */
export function writeFlag(writer: ByteWriter, flag: boolean): void {
  writer.u8(flag ? 1 : 0);
}

export function readFlag(reader: ByteReader, field: string): boolean {
  const value = reader.u8();
  if (value > 1) throw badValue(field, '0 or 1', value);
  return value === 1;
}

export function writeOrigin(writer: ByteWriter, origin: BlobOrigin): void {
  writeName(writer, 'registry', origin.registry);
  writeName(writer, 'repository', origin.repository);
}

export function readOrigin(reader: ByteReader): BlobOrigin {
  return { registry: readName(reader, 'registry'), repository: readName(reader, 'repository') };
}

/** Block indices behind their count (u32). */
export function writeIndices(
  writer: ByteWriter,
  indices: readonly BlockIndex[],
  countMax: number,
): void {
  if (indices.length > countMax) throw overLimit('indices', indices.length, countMax);
  writer.u32(indices.length);
  for (const index of indices) {
    if (index > BLOCK_INDEX_MAX) throw overLimit('index', index, BLOCK_INDEX_MAX);
    writer.u32(index);
  }
}

export function readIndices(reader: ByteReader, countMax: number): readonly BlockIndex[] {
  const count = reader.u32();
  if (count > countMax) throw overLimit('indices', count, countMax);
  const bytes = reader.raw(4 * count);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: count }, (_, i) => blockIndex(view.getUint32(4 * i, true)));
}

/** A list behind its count (u16). */
export function writeList<T>(
  writer: ByteWriter,
  list: { readonly field: string; readonly countMax: number; readonly items: readonly T[] },
  write: (item: T) => void,
): void {
  const { field, countMax, items } = list;
  if (items.length > countMax) throw overLimit(field, items.length, countMax);
  writer.u16(items.length);
  for (const item of items) write(item);
}

/** The list grows as its items are read, so that a false count costs nothing. */
export function readList<T>(
  reader: ByteReader,
  field: string,
  countMax: number,
  read: () => T,
): readonly T[] {
  const count = reader.u16();
  if (count > countMax) throw overLimit(field, count, countMax);
  const items: T[] = [];
  for (let i = 0; i < count; i++) items.push(read());
  return items;
}
