import { readPart } from '../image/byte-source.ts';
import { BlockDigests, digestedLayers, type DigestedLayer } from '../image/block-digests.ts';
import type { BlobRef } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import { damaged } from '../image/errors.ts';
import { openLayer } from '../image/layer.ts';
import { blockLayers, type Manifest } from '../image/manifest.ts';
import { verifyLayer, type VerifyResult } from '../image/verify.ts';
import type { Codec, Hash } from '../runtime/codec.ts';
import { bytesEqual } from '../util/bytes.ts';
import { CodedError } from '../util/errors.ts';
import { withFile } from './files.ts';
import { digestsOf, type ProgressOptions } from './layer-blob.ts';
import { blobPath, readTag, type LayoutTarget } from './oci-layout.ts';

/** Result of the check of a layer. */
export interface LayerCheck {
  readonly digest: Digest;
  readonly result: VerifyResult | CodedError<{ readonly code: string }>;
  /** Whether the image ships the digests of the layer's blocks; the check then covers them too. */
  readonly hasBlockDigests: boolean;
}

/**
 * Checks each layer of an image in an OCI layout: the blob against its sha256, the whole layer, and
 * the shipped block digests against the blocks. Throws ConvertError or ManifestError when there is
 * no such image, or the signal's reason.
 */
export async function verifyImage(
  components: { codec: Codec; hash: Hash },
  target: LayoutTarget,
  options: ProgressOptions = {},
): Promise<readonly LayerCheck[]> {
  const pathOf = (digest: Digest): string => blobPath(target.directory, digest);
  return verifyLayers(components, { manifest: await readTag(target), pathOf }, options);
}

/** A manifest, and where the blobs that it names lie. */
interface StoredImage {
  readonly manifest: Manifest;
  readonly pathOf: (digest: Digest) => string;
}

/**
 * Checks each layer of an image as `verifyImage()` does. Throws the signal's reason; what is wrong
 * with a layer stands in its result.
 */
export async function verifyLayers(
  components: { codec: Codec; hash: Hash },
  { manifest, pathOf }: StoredImage,
  options: ProgressOptions = {},
): Promise<readonly LayerCheck[]> {
  const digested = new Map(digestedLayers(manifest).map((layer) => [layer.blob.digest, layer]));
  const checks: LayerCheck[] = [];
  for (const blob of blockLayers(manifest)) {
    const { digest } = blob;
    const shipped = digested.get(digest);
    const hasBlockDigests = shipped !== undefined;
    try {
      const where = { pathOf, blob, shipped };
      const result = await verifyBlob(components, where, options);
      checks.push({ digest, result, hasBlockDigests });
    } catch (error) {
      options.signal?.throwIfAborted();
      if (!(error instanceof CodedError)) throw error;
      checks.push({ digest, result: error, hasBlockDigests });
    }
  }
  return checks;
}

async function verifyBlob(
  components: { codec: Codec; hash: Hash },
  where: Pick<StoredImage, 'pathOf'> & { blob: BlobRef; shipped: DigestedLayer | undefined },
  options: ProgressOptions,
): Promise<VerifyResult> {
  const { pathOf, blob, shipped } = where;
  return withFile(pathOf(blob.digest), 'read', async (file) => {
    const found = await digestsOf(components.hash, file, options);
    if (found.digest !== blob.digest) throw damaged('blob', `its digest is ${found.digest}`);
    if (shipped !== undefined) {
      const digests = await readDigests(components.hash, pathOf(shipped.holder.digest), shipped);
      if (!bytesEqual(digests.bytes, BlockDigests.make(blob, found.blockDigests).bytes)) {
        throw damaged('block digests', "they do not match the layer's blocks");
      }
    }
    const { signal } = options;
    return verifyLayer(await openLayer(file, components.codec), components.codec, {
      ...(signal !== undefined && { signal }),
      onProgress: (done, total) => options.onProgress?.('verifying', done, total),
    });
  });
}

function readDigests(hash: Hash, path: string, layer: DigestedLayer): Promise<BlockDigests> {
  return withFile(path, 'read', async (file) => {
    const bytes = await readPart(file, layer.offset, layer.sizeBytes, 'block digests');
    return BlockDigests.parse(hash, layer, bytes);
  });
}
