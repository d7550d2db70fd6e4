import { digestOfSha256, type Digest } from '../image/digest.ts';
import type { Hash, Hasher } from '../runtime/codec.ts';
import type { Decompressor } from '../runtime/decompressor.ts';
import { ConvertError } from './errors.ts';
import { layerTar } from './tar/layer-stream.ts';
import { readTar } from './tar/read-tar.ts';
import type { TarItem } from './tar/tar-entry.ts';

/**
 * The entries of an OCI layer's blob, which may be compressed. After the last one it checks the
 * digest of the tar. Throws ConvertError, which names the layer, what the blob throws, or the
 * signal's reason.
 */
export async function* layerItems(
  components: { readonly hash: Hash; readonly decompressor: Decompressor },
  blob: AsyncIterable<Uint8Array>,
  layer: { readonly digest: Digest; readonly diffId: Digest; readonly signal: AbortSignal },
): AsyncGenerator<TarItem, void> {
  const { hash, decompressor } = components;
  const { digest, diffId, signal } = layer;
  const hasher = hash.sha256Stream();
  try {
    yield* readTar(hashing(layerTar(decompressor, blob), hasher), { signal });
  } catch (error) {
    if (!(error instanceof ConvertError) || error.code !== 'tar') throw error;
    throw new ConvertError(`layer ${digest}: ${error.message}`, error.detail, { cause: error });
  }
  const actual = digestOfSha256(hasher.digest());
  if (actual === diffId) return;
  throw new ConvertError(
    `the content of layer ${digest} has the digest ${actual}, ` +
      `but the image's config says ${diffId}; ` +
      'push the image again',
    { code: 'digest-mismatch', digest: diffId },
  );
}

async function* hashing(
  chunks: AsyncIterable<Uint8Array>,
  hasher: Hasher,
): AsyncGenerator<Uint8Array, void> {
  for await (const chunk of chunks) {
    hasher.update(chunk);
    yield chunk;
  }
}
