import { createHash, type Hash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { putBlob, tagManifest } from '../../src/convert/oci-layout.ts';
import { parseDigest, type Digest } from '../../src/image/digest.ts';
import { MANIFEST_MEDIA_TYPES } from '../../src/image/manifest.ts';
import { defined } from '../../src/util/assert.ts';
import { digestOf } from './registry-content.ts';

/** A layer of an image: a tar, compressed with gzip. */
export interface GzipLayer {
  readonly digest: Digest;
  readonly sizeBytes: number;
  readonly diffId: Digest;
  readonly tarBytes: number;
}

/** Compresses a tar into a file. */
export async function packLayer(
  tar: AsyncIterable<Uint8Array>,
  path: string,
  options: { readonly level?: number } = {},
): Promise<GzipLayer> {
  const [plain, packed] = [new Counted(), new Counted()];
  await pipeline(tar, plain, createGzip(options), packed, createWriteStream(path));
  return {
    digest: packed.digest(),
    sizeBytes: packed.sizeBytes,
    diffId: plain.digest(),
    tarBytes: plain.sizeBytes,
  };
}

/** Tags an image of these layers, bottom first, in an OCI layout folder that has them. */
export async function putGzipImage(
  layout: string,
  tag: string,
  layers: readonly GzipLayer[],
): Promise<void> {
  const config = {
    architecture: process.arch === 'x64' ? 'amd64' : process.arch,
    os: 'linux',
    config: { Env: ['PATH=/usr/sbin:/usr/bin:/sbin:/bin'], Cmd: ['/bin/bash'] },
    rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
  };
  const [mediaType] = MANIFEST_MEDIA_TYPES;
  const manifest = {
    schemaVersion: 2,
    mediaType,
    config: await put(layout, config, 'application/vnd.oci.image.config.v1+json'),
    layers: layers.map(({ digest, sizeBytes }) => ({
      mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
      digest,
      size: sizeBytes,
    })),
  };
  await tagManifest({ directory: layout, tag }, await put(layout, manifest, mediaType));
}

async function put(layout: string, content: object, mediaType: string) {
  const bytes = Buffer.from(JSON.stringify(content));
  const digest = digestOf(bytes);
  await putBlob(layout, digest, bytes);
  return { mediaType, digest, size: bytes.length };
}

/** Passes bytes on, counts and hashes them. */
class Counted extends Transform {
  readonly #hash: Hash = createHash('sha256');
  sizeBytes = 0;

  override _transform(piece: Buffer, _: string, done: (e: null, piece: Buffer) => void): void {
    this.#hash.update(piece);
    this.sizeBytes += piece.length;
    done(null, piece);
  }

  digest(): Digest {
    return defined(parseDigest(`sha256:${this.#hash.digest('hex')}`), 'a sha256 is a digest');
  }
}
