import {
  ATTESTATION_SIGNATURE_BYTES,
  ATTESTATION_SIGNER_BYTES,
  type Attestation,
} from '../image/attestation.ts';
import {
  BLOB_SIZE_BYTES_MAX,
  BLOCK_SIZE_BYTES,
  blockLength,
  type BlobRef,
  type BlockIndex,
} from '../image/block.ts';
import {
  digestBytes,
  digestHex,
  digestOfSha256,
  parseDigest,
  type Digest,
} from '../image/digest.ts';
import type { Codec } from '../runtime/codec.ts';
import { assert } from '../util/assert.ts';
import { bytesEqual } from '../util/bytes.ts';

/** Version of the format of docs/ON_DISK_FORMAT.md. Integers are little-endian. */
export const STORE_VERSION = 3;

/** Content of the file `version` at the root of a store. */
export const VERSION_TEXT = `xylem-store ${STORE_VERSION}\n`;

/** First bytes of a records file. */
const MAGIC = new TextEncoder().encode('xylemrec');

/** Bytes of the header of a records file. */
export const HEADER_BYTES = 64;
const HEADER_CRC_OFFSET = 60;
/** Offset of the signature, after CRC, index, length, flags, digest and signer. */
const RECORD_SIGNATURE_AT = 80;
/** Bytes of the record of a block. */
export const RECORD_BYTES = RECORD_SIGNATURE_AT + ATTESTATION_SIGNATURE_BYTES;

/** The record of an absent block: all zero, as a hole of the file reads. */
export const EMPTY_RECORD: Uint8Array = new Uint8Array(RECORD_BYTES);

const FLAG_PRESENT = 1;

/**
 * Blocks that share a data file and are evicted together: 16 MiB. Node cannot punch holes, so that
 * only the removal of a file frees space. 100 GB take 6,000 files; to make room for one block, the
 * store forgets at most 64.
 */
export const GROUP_BLOCKS = 64;

/** Paths of a blob's folder and files, relative to the root of the store. */
export interface BlobPaths {
  readonly shard: string;
  readonly folder: string;
  readonly records: string;
}

/** Folder of all blobs, below the root of the store. */
export const BLOBS_FOLDER = 'blobs';
/** File with the version of the store's format. */
export const VERSION_FILE = 'version';
/** File with the digests of pinned blobs, one per line. */
export const PINS_FILE = 'pins';
/** File with the digests of blobs that a device process mounts (src/blockstore/leases.ts). */
export const LEASES_FILE = 'leases';
/** File with the uses of groups (src/blockstore/usage-file.ts). */
export const USAGE_FILE = 'usage';
/** File with the digests of distrusted blobs (src/blockstore/distrust-list.ts). */
export const DISTRUSTED_FILE = 'distrusted';

/** Paths of a blob. */
export function blobPaths(digest: Digest): BlobPaths {
  const hex = digestHex(digest);
  const shard = `${BLOBS_FOLDER}/${hex.slice(0, 2)}`;
  const folder = `${shard}/${hex}`;
  return { shard, folder, records: `${folder}/records` };
}

/** Number of a block's group. */
export function groupOf(index: BlockIndex): number {
  return Math.floor(index / GROUP_BLOCKS);
}

/** First index and count of the blocks of a group, in a blob of `blocks` blocks. */
export function blocksOfGroup(group: number, blocks: number): readonly [number, number] {
  const first = group * GROUP_BLOCKS;
  return [first, Math.min(GROUP_BLOCKS, blocks - first)];
}

/** Path of the data file of a group. */
export function dataPath(paths: BlobPaths, group: number): string {
  return `${paths.folder}/data.${group}`;
}

/** The group of a data file's name in a blob's folder; undefined for any other name. */
export function groupOfFile(name: string): number | undefined {
  return /^data\.(0|[1-9][0-9]{0,5})$/.test(name) ? Number(name.slice(5)) : undefined;
}

/**
 * The digest of the blob in the folder `blobs/<shard>/<name>`; undefined when no blob has that
 * folder.
 */
export function digestOfFolder(shard: string, name: string): Digest | undefined {
  return name.startsWith(shard) && shard.length === 2 ? parseDigest(`sha256:${name}`) : undefined;
}

/** Byte offset of a block in the data file of its group. */
export function dataOffset(index: BlockIndex): number {
  return (index % GROUP_BLOCKS) * BLOCK_SIZE_BYTES;
}

/** Byte offset of a block's record in the records file. */
export function recordOffset(index: BlockIndex): number {
  return HEADER_BYTES + index * RECORD_BYTES;
}

type Crc = Pick<Codec, 'crc32c'>;

/**
 * Header of a records file, 64 bytes.
 *
 *     magic "xylemrec" (8) | version u32 | block size u32 | blob size u64 | blob sha256 (32)
 *     zero (4) | CRC-32C of all before, u32
 */
export function encodeHeader(codec: Crc, blob: BlobRef): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(MAGIC, 0);
  view.setUint32(8, STORE_VERSION, true);
  view.setUint32(12, BLOCK_SIZE_BYTES, true);
  view.setBigUint64(16, BigInt(blob.sizeBytes), true);
  bytes.set(digestBytes(blob.digest), 24);
  view.setUint32(HEADER_CRC_OFFSET, codec.crc32c(bytes.subarray(0, HEADER_CRC_OFFSET)), true);
  return bytes;
}

/**
 * The blob that a header names; undefined when the header is damaged, or of another version or
 * block size.
 */
export function decodeHeader(codec: Crc, bytes: Uint8Array): BlobRef | undefined {
  if (bytes.length !== HEADER_BYTES || !bytesEqual(bytes.subarray(0, 8), MAGIC)) return undefined;
  const view = viewOf(bytes);
  const crc = codec.crc32c(bytes.subarray(0, HEADER_CRC_OFFSET));
  if (view.getUint32(HEADER_CRC_OFFSET, true) !== crc) return undefined;
  if (view.getUint32(8, true) !== STORE_VERSION) return undefined;
  if (view.getUint32(12, true) !== BLOCK_SIZE_BYTES) return undefined;
  const sizeBytes = Number(view.getBigUint64(16, true));
  if (sizeBytes > BLOB_SIZE_BYTES_MAX) return undefined;
  return { digest: digestOfSha256(bytes.subarray(24, 56)), sizeBytes };
}

/** What the store keeps of a block beside its bytes. */
export interface BlockRecord {
  readonly lengthBytes: number;
  /** BLAKE3 of the bytes, 32 bytes. */
  readonly blockDigest: Uint8Array;
  readonly attestation: Attestation;
}

/**
 * Reads and writes the records of one blob.
 *
 * Record of block `i`, 244 bytes at 64 + 244 * i; all zero when the block is absent:
 *
 *     CRC-32C u32 | block index u32 | length u32 | flags u32 (1 = present)
 *     BLAKE3 (32) | signer (32) | signature (164)
 *
 * The CRC continues the CRC of the header over the rest of the record, so that a record is valid
 * only in its own file.
 */
export class RecordCodec {
  readonly #codec: Crc;
  readonly #blob: BlobRef;
  readonly #seed: number;

  constructor(components: { codec: Crc }, init: { blob: BlobRef }) {
    this.#codec = components.codec;
    this.#blob = init.blob;
    // Without the header's CRC: a CRC-32C over data and its own CRC is always the same constant.
    const header = encodeHeader(components.codec, init.blob).subarray(0, HEADER_CRC_OFFSET);
    this.#seed = components.codec.crc32c(header);
  }

  encode(index: BlockIndex, record: BlockRecord): Uint8Array {
    const { signer, signature } = record.attestation;
    assert(record.blockDigest.length === 32, 'a BLAKE3 digest has 32 bytes');
    assert(signer.length === ATTESTATION_SIGNER_BYTES, 'a signer has 32 bytes');
    assert(
      signature.length === ATTESTATION_SIGNATURE_BYTES,
      `a signature has ${ATTESTATION_SIGNATURE_BYTES} bytes`,
    );
    const bytes = new Uint8Array(RECORD_BYTES);
    const view = new DataView(bytes.buffer);
    view.setUint32(4, index, true);
    view.setUint32(8, record.lengthBytes, true);
    view.setUint32(12, FLAG_PRESENT, true);
    bytes.set(record.blockDigest, 16);
    bytes.set(signer, 48);
    bytes.set(signature, RECORD_SIGNATURE_AT);
    view.setUint32(0, this.#codec.crc32c(bytes.subarray(4), this.#seed), true);
    return bytes;
  }

  /** The state of a slot, without decoding its record. */
  check(index: BlockIndex, bytes: Uint8Array): 'present' | 'empty' | 'damaged' {
    if (bytes.length !== RECORD_BYTES) return 'damaged';
    const view = viewOf(bytes);
    const crc = view.getUint32(0, true);
    // The flags distinguish a record whose CRC happens to be 0 from an empty slot.
    if (crc === 0 && view.getUint32(12, true) === 0) return 'empty';
    const sound =
      crc === this.#codec.crc32c(bytes.subarray(4), this.#seed) &&
      view.getUint32(4, true) === index &&
      view.getUint32(8, true) === blockLength(this.#blob.sizeBytes, index) &&
      view.getUint32(12, true) === FLAG_PRESENT;
    return sound ? 'present' : 'damaged';
  }

  /**
   * The record in a slot, with its own copy of the bytes; undefined when the slot is empty or
   * damaged.
   */
  decode(index: BlockIndex, bytes: Uint8Array): BlockRecord | undefined {
    if (this.check(index, bytes) !== 'present') return undefined;
    return {
      lengthBytes: viewOf(bytes).getUint32(8, true),
      blockDigest: bytes.slice(16, 48),
      attestation: {
        signer: bytes.slice(48, RECORD_SIGNATURE_AT),
        signature: bytes.slice(RECORD_SIGNATURE_AT, RECORD_BYTES),
      },
    };
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
