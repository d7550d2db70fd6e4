import type { BlobRef } from '../image/block.ts';
import { digestHex, type Digest } from '../image/digest.ts';
import { encodeLsmtHeader, LSMT_HEADER_BYTES, uuidOfHex } from '../image/lsmt-header.ts';
import { ACCELERATION_ANNOTATION, type Descriptor, type Manifest } from '../image/manifest.ts';
import { encodeTrace } from '../image/trace.ts';
import { tarOf } from '../image/tar.ts';
import type { Codec } from '../runtime/codec.ts';
import type { BlobReader } from '../transfer/contracts/blob-reader.ts';
import { tracedOrders } from '../transfer/read/traced-blocks.ts';
import type { TouchOrder } from '../tree/messages.ts';
import { assert } from '../util/assert.ts';
import type { Image, SimBlob, Trace } from './workload.ts';

const MEDIA_TYPE = 'application/vnd.oci.image.layer.v1.tar';

/**
 * The order in which an agent prefetches an image that ships this trace, as the agent's own code
 * derives it from manifest and trace layer.
 */
export function shippedOrders(
  components: { codec: Codec },
  image: Image,
  trace: Trace,
): Promise<readonly TouchOrder[]> {
  const { codec } = components;
  const shipped = new ShippedImage(components, image, trace);
  const options = { kind: 'prefetch' } as const;
  return tracedOrders({ reader: shipped, codec }, shipped.manifest, options);
}

/**
 * A simulated image with the bytes that reading its trace takes. Its layers are sound and empty
 * block devices, uncompressed, so that the trace's offsets equal those in the blobs. It also has
 * the acceleration layer.
 */
class ShippedImage implements BlobReader {
  readonly manifest: Manifest;
  readonly #trace: SimBlob;
  readonly #tar: Uint8Array;

  constructor({ codec }: { codec: Codec }, image: Image, trace: Trace) {
    this.#trace = trace.shipped;
    this.#tar = tarOf([{ name: 'trace', bytes: encodeTrace(trace.accesses, codec) }]).bytes;
    assert(this.#tar.length <= trace.shipped.sizeBytes, 'the trace fits its layer');
    const top = descriptorOf(trace.shipped, { [ACCELERATION_ANNOTATION]: 'yes' });
    const layers = [...image.blobs.map((blob) => descriptorOf(blob)), top];
    this.manifest = { mediaType: MEDIA_TYPE, config: top, layers, annotations: {} };
  }

  read(blob: BlobRef, offset: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    const put = (part: Uint8Array, at: number): void => {
      const from = Math.max(at, offset);
      const to = Math.min(at + part.length, offset + length);
      if (from < to) bytes.set(part.subarray(from - at, to - at), from - offset);
    };
    if (blob.digest === this.#trace.digest) {
      put(this.#tar, 0);
    } else {
      put(endOf(blob.digest, 'header'), 0);
      put(endOf(blob.digest, 'trailer'), blob.sizeBytes - LSMT_HEADER_BYTES);
    }
    return Promise.resolve(bytes);
  }

  readCached(): undefined {
    return undefined;
  }
}

/** Header or trailer of an empty layer. */
function endOf(digest: Digest, which: 'header' | 'trailer'): Uint8Array {
  const fields = {
    indexOffset: LSMT_HEADER_BYTES,
    segmentCount: 0,
    virtualSizeBytes: 0,
    uuid: uuidOfHex(digestHex(digest)),
  };
  return encodeLsmtHeader(fields, which);
}

function descriptorOf(
  { digest, sizeBytes }: SimBlob,
  annotations: Descriptor['annotations'] = {},
): Descriptor {
  return { mediaType: MEDIA_TYPE, digest, size: sizeBytes, annotations };
}
