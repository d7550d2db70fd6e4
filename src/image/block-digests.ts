import type { Hash } from '../runtime/codec.ts';
import { assert } from '../util/assert.ts';
import { bytesEqual, fromHex, toHex } from '../util/bytes.ts';
import { readU64, startsWith, viewOf, writeU64 } from './binary.ts';
import { blockCount, BLOCK_SIZE_BYTES, type BlobRef, type BlockIndex } from './block.ts';
import { digestBytes, parseDigest, type Digest } from './digest.ts';
import { damaged } from './errors.ts';
import type { Descriptor, Manifest } from './manifest.ts';

/** Of the descriptor of a digest blob: no layer to any other tool, so that containerd unpacks nothing and copies it all the same. */
export const BLOCK_DIGESTS_MEDIA_TYPE = 'application/vnd.xylem.block-digests.v1';

/** Annotation of a layer: the sha256 of its digest blob, which the manifest lists too. */
export const BLOCK_DIGESTS_ANNOTATION = 'io.xylem.block-digests';
/** Annotation of a layer: `blake3:` and the hex root digest, BLAKE3 over the whole digest blob. */
export const BLOCK_DIGESTS_ROOT_ANNOTATION = 'io.xylem.block-digests.root';

const MAGIC = new TextEncoder().encode('xylemdig');
const VERSION = 1;
const HEADER_BYTES = 64;
const HASH_BYTES = 32;
const ROOT = /^blake3:[0-9a-f]{64}$/;
const PART = 'digest blob';

/**
 * The digests of all blocks of a layer blob, made with the image and shipped in it: who has the manifest needs no root's word for a block.
 *
 * Digest blob, integers little-endian:
 *
 *     magic "xylemdig" (8) | version u32 = 1 | block size u32 | layer blob size u64 | block count u32 | zero (4) | layer blob sha256 (32)
 *     BLAKE3 of block 0 (32) | BLAKE3 of block 1 (32) | ...
 */
export class BlockDigests {
  readonly #bytes: Uint8Array;

  /** `bytes`: a digest blob whose header was checked. */
  private constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** `digests`: those of all blocks one after another, 32 bytes each. */
  static make(blob: BlobRef, digests: Uint8Array): BlockDigests {
    const count = blockCount(blob.sizeBytes);
    assert(digests.length === count * HASH_BYTES, `${digests.length} bytes of ${count} digests`);
    const bytes = new Uint8Array(digestBlobSizeBytes(blob.sizeBytes));
    const view = viewOf(bytes);
    bytes.set(MAGIC, 0);
    view.setUint32(8, VERSION, true);
    view.setUint32(12, BLOCK_SIZE_BYTES, true);
    writeU64(view, 16, blob.sizeBytes);
    view.setUint32(24, count, true);
    bytes.set(digestBytes(blob.digest), 32);
    bytes.set(digests, HEADER_BYTES);
    return new BlockDigests(bytes);
  }

  /** Reads the digest blob of a layer and checks it against the layer's annotation. Throws ImageError. */
  static parse(hash: Pick<Hash, 'blake3'>, layer: DigestedLayer, bytes: Uint8Array): BlockDigests {
    const { blob, root } = layer;
    const sizeBytes = digestBlobSizeBytes(blob.sizeBytes);
    if (bytes.length !== sizeBytes) {
      throw damaged(PART, `it has ${bytes.length} bytes, not the ${sizeBytes} of its layer`);
    }
    if (!bytesEqual(hash.blake3(bytes), root)) {
      throw damaged(PART, `its BLAKE3 is not the ${toHex(root)} that the manifest names`);
    }
    const view = viewOf(bytes);
    const isOfLayer =
      startsWith(bytes, MAGIC) &&
      view.getUint32(8, true) === VERSION &&
      view.getUint32(12, true) === BLOCK_SIZE_BYTES &&
      readU64(view, 16, PART) === blob.sizeBytes &&
      view.getUint32(24, true) === blockCount(blob.sizeBytes) &&
      view.getUint32(28, true) === 0 &&
      bytesEqual(bytes.subarray(32, HEADER_BYTES), digestBytes(blob.digest));
    if (!isOfLayer) {
      throw damaged(PART, `it is not one of version ${VERSION} for layer ${blob.digest}`);
    }
    return new BlockDigests(bytes);
  }

  /** The digest blob. */
  get bytes(): Uint8Array {
    return this.#bytes;
  }

  /** Whether the block with this BLAKE3 is the one of the image. */
  matches(index: BlockIndex, blockDigest: Uint8Array): boolean {
    const start = HEADER_BYTES + index * HASH_BYTES;
    return bytesEqual(this.#bytes.subarray(start, start + HASH_BYTES), blockDigest);
  }
}

/** Size of the digest blob of a layer blob, in bytes: 1/8,192 of it. */
export function digestBlobSizeBytes(layerSizeBytes: number): number {
  return HEADER_BYTES + blockCount(layerSizeBytes) * HASH_BYTES;
}

/** A layer whose block digests are in the image. */
export interface DigestedLayer {
  readonly blob: BlobRef;
  readonly digestBlob: BlobRef;
  /** BLAKE3 of the digest blob, 32 bytes. */
  readonly root: Uint8Array;
}

/** Annotations of a layer that name its digest blob. */
export function blockDigestsAnnotations(
  hash: Pick<Hash, 'blake3'>,
  digestBlob: { digest: Digest; bytes: Uint8Array },
): Readonly<Record<string, string>> {
  return {
    [BLOCK_DIGESTS_ANNOTATION]: digestBlob.digest,
    [BLOCK_DIGESTS_ROOT_ANNOTATION]: `blake3:${toHex(hash.blake3(digestBlob.bytes))}`,
  };
}

/** The digest blob that a layer's annotations name; undefined when they name none. Throws ImageError when they make no sense. */
export function digestedLayer(layer: Descriptor): DigestedLayer | undefined {
  const name = layer.annotations[BLOCK_DIGESTS_ANNOTATION];
  const root = layer.annotations[BLOCK_DIGESTS_ROOT_ANNOTATION];
  if (name === undefined && root === undefined) return undefined;
  const digest = parseDigest(name ?? '');
  const rootBytes = ROOT.test(root ?? '') ? fromHex((root ?? '').slice(7)) : undefined;
  if (digest === undefined || rootBytes === undefined) {
    throw damaged(
      'annotations',
      `layer ${layer.digest} names its digest blob as ${JSON.stringify(name)} with root ${JSON.stringify(root)}`,
    );
  }
  return {
    blob: { digest: layer.digest, sizeBytes: layer.size },
    digestBlob: { digest, sizeBytes: digestBlobSizeBytes(layer.size) },
    root: rootBytes,
  };
}

/** The layers of an image that ship their block digests. Throws ImageError. */
export function digestedLayers(manifest: Manifest): readonly DigestedLayer[] {
  return manifest.layers.map(digestedLayer).filter((layer) => layer !== undefined);
}
