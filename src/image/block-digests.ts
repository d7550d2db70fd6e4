import type { Hash } from '../runtime/codec.ts';
import { assert } from '../util/assert.ts';
import { bytesEqual, fromHex, toHex } from '../util/bytes.ts';
import { readU64, startsWith, viewOf, writeU64 } from './binary.ts';
import { blockCount, BLOCK_SIZE_BYTES, type BlobRef, type BlockIndex } from './block.ts';
import { digestBytes, type Digest } from './digest.ts';
import { damaged } from './errors.ts';
import type { Descriptor, Manifest } from './manifest.ts';

/**
 * Annotations of a layer: the blob that holds its block digests (`sha256:...`), their byte offset
 * in it, and the BLAKE3 over them (`blake3:...`).
 */
const HOLDER_ANNOTATION = 'io.xylem.block-digests';
const OFFSET_ANNOTATION = 'io.xylem.block-digests.offset';
const ROOT_ANNOTATION = 'io.xylem.block-digests.root';

const MAGIC = new TextEncoder().encode('xylemdig');
const VERSION = 1;
const HEADER_BYTES = 64;
const HASH_BYTES = 32;
const ROOT = /^blake3:[0-9a-f]{64}$/;
const PART = 'block digests';

/**
 * The digests of all blocks of a layer blob, made with the image and shipped in it. A host that has
 * the manifest can check blocks without a root's attestation.
 *
 * The acceleration layer of the image ships them in this form (src/convert/acceleration-layer.ts).
 * Integers are little-endian.
 *
 *     magic "xylemdig" (8) | version u32 = 1 | block size u32 | layer blob size u64
 *     block count u32 | zero (4) | layer blob sha256 (32)
 *     BLAKE3 of block 0 (32) | BLAKE3 of block 1 (32) | ...
 */
export class BlockDigests {
  readonly #bytes: Uint8Array;

  /** `bytes`: header and digests, already checked. */
  private constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** `digests`: the digests of all blocks in order, 32 bytes each. */
  static make(blob: BlobRef, digests: Uint8Array): BlockDigests {
    const count = blockCount(blob.sizeBytes);
    assert(digests.length === count * HASH_BYTES, `${digests.length} bytes of ${count} digests`);
    const bytes = new Uint8Array(digestsSizeBytes(blob.sizeBytes));
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

  /** Reads the digests of a layer and checks them against its annotations. Throws ImageError. */
  static parse(hash: Pick<Hash, 'blake3'>, layer: DigestedLayer, bytes: Uint8Array): BlockDigests {
    const { blob, root } = layer;
    const sizeBytes = digestsSizeBytes(blob.sizeBytes);
    if (bytes.length !== sizeBytes) {
      throw damaged(PART, `there are ${bytes.length} bytes, but the layer needs ${sizeBytes}`);
    }
    if (!bytesEqual(hash.blake3(bytes), root)) {
      throw damaged(PART, `their BLAKE3 is not ${toHex(root)}, which the manifest names`);
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
      throw damaged(PART, `they are not of version ${VERSION} for layer ${blob.digest}`);
    }
    return new BlockDigests(bytes);
  }

  /** Header and digests in their shipped form. */
  get bytes(): Uint8Array {
    return this.#bytes;
  }

  /** The digests of all blocks in order, 32 bytes each. */
  get blockDigests(): Uint8Array {
    return this.#bytes.subarray(HEADER_BYTES);
  }

  /** Whether the image's block `index` has this BLAKE3. */
  matches(index: BlockIndex, blockDigest: Uint8Array): boolean {
    const start = HEADER_BYTES + index * HASH_BYTES;
    return bytesEqual(this.#bytes.subarray(start, start + HASH_BYTES), blockDigest);
  }
}

/** Bytes of the shipped digests of a layer blob: 1/8,192 of its size. */
function digestsSizeBytes(layerSizeBytes: number): number {
  return HEADER_BYTES + blockCount(layerSizeBytes) * HASH_BYTES;
}

/** A layer whose block digests are in the image. */
export interface DigestedLayer {
  readonly blob: BlobRef;
  /** The blob of the image that holds the digests. They lie at `offset` in it. */
  readonly holder: BlobRef;
  readonly offset: number;
  readonly sizeBytes: number;
  /** BLAKE3 over the shipped digests, 32 bytes. */
  readonly root: Uint8Array;
}

/** Annotations of a layer that name the place of its block digests. */
export function digestsAnnotations(
  hash: Pick<Hash, 'blake3'>,
  digests: BlockDigests,
  place: { holder: Digest; offset: number },
): Readonly<Record<string, string>> {
  return {
    [HOLDER_ANNOTATION]: place.holder,
    [OFFSET_ANNOTATION]: String(place.offset),
    [ROOT_ANNOTATION]: `blake3:${toHex(hash.blake3(digests.bytes))}`,
  };
}

/** The annotations of a layer without those that name the place of its block digests. */
export function withoutDigests<T>(annotations: Readonly<Record<string, T>>): Record<string, T> {
  const own = new Set([HOLDER_ANNOTATION, OFFSET_ANNOTATION, ROOT_ANNOTATION]);
  return Object.fromEntries(Object.entries(annotations).filter(([name]) => !own.has(name)));
}

/**
 * The layers of an image that ship their block digests. Throws ImageError when the annotations of a
 * layer name an impossible place.
 */
export function digestedLayers(manifest: Manifest): readonly DigestedLayer[] {
  return manifest.layers
    .map((layer) => digestedLayer(manifest, layer))
    .filter((layer) => layer !== undefined);
}

function digestedLayer(manifest: Manifest, layer: Descriptor): DigestedLayer | undefined {
  const {
    [HOLDER_ANNOTATION]: name,
    [OFFSET_ANNOTATION]: at,
    [ROOT_ANNOTATION]: root,
  } = layer.annotations;
  if (name === undefined && at === undefined && root === undefined) return undefined;
  const holder = manifest.layers.find(({ digest }) => digest === name);
  const offset = /^(0|[1-9][0-9]{0,12})$/.test(at ?? '') ? Number(at) : -1;
  const rootBytes = ROOT.test(root ?? '')
    ? fromHex((root ?? '').slice('blake3:'.length))
    : undefined;
  const sizeBytes = digestsSizeBytes(layer.size);
  const fits = holder !== undefined && offset >= 0 && offset + sizeBytes <= holder.size;
  if (!fits || rootBytes === undefined) {
    const said = JSON.stringify([name, at, root]);
    throw damaged(
      'manifest',
      `annotations of layer ${layer.digest} name no place for block digests: ${said}`,
    );
  }
  return {
    blob: { digest: layer.digest, sizeBytes: layer.size },
    holder: { digest: holder.digest, sizeBytes: holder.size },
    offset,
    sizeBytes,
    root: rootBytes,
  };
}
