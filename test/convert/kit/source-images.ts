import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { prepareLayout, putBlob, tagManifest } from '../../../src/convert/oci-layout.ts';
import { LayoutPlace } from '../../../src/convert/places/layout-place.ts';
import type { Digest } from '../../../src/image/digest.ts';
import { INDEX_MEDIA_TYPES, MANIFEST_MEDIA_TYPES } from '../../../src/image/manifest.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { digestOf } from '../../kit/registry-content.ts';
import { END, joined } from '../../kit/tar-encoder.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

/** A layer as the members of its tar, and how its blob is compressed. */
export interface LayerInit {
  readonly members: readonly Uint8Array[];
  readonly compression?: 'none' | 'gzip' | 'zstd';
  /** In place of the right one. */
  readonly diffId?: Digest;
}

/** One entry of an index. */
interface Described {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly size: number;
}

/** Makes ordinary images in an OCI layout. */
export class SourceImages {
  readonly directory = join(tempFolder(), 'source');

  place(tag: string): LayoutPlace {
    return new LayoutPlace({ hash: new NodeHash() }, `oci:${this.directory}:${tag}`);
  }

  /** Puts an image of these layers, bottom first, and tags it. */
  async put(
    tag: string | undefined,
    layers: readonly LayerInit[],
    config: Readonly<Record<string, unknown>> = {},
  ): Promise<Described> {
    await prepareLayout(this.directory);
    const described: Described[] = [];
    const diffIds: Digest[] = [];
    for (const { members, compression = 'none', diffId } of layers) {
      const tar = joined(...members, END);
      diffIds.push(diffId ?? digestOf(tar));
      const [blob, suffix] = compress(tar, compression);
      const mediaType = `application/vnd.oci.image.layer.v1.tar${suffix}`;
      described.push(await this.#blob(blob, mediaType));
    }
    const rootfs = { type: 'layers', diff_ids: diffIds };
    const full = { os: 'linux', architecture: 'amd64', ...config, rootfs };
    const configType = 'application/vnd.oci.image.config.v1+json';
    const [mediaType] = MANIFEST_MEDIA_TYPES;
    const manifest = await this.#json(
      {
        schemaVersion: 2,
        mediaType,
        config: await this.#json(full, configType),
        layers: described,
      },
      mediaType,
    );
    if (tag !== undefined) await tagManifest({ directory: this.directory, tag }, manifest);
    return manifest;
  }

  /** Puts an index of these entries, and tags it. */
  async putIndex(tag: string, manifests: readonly object[]): Promise<void> {
    const [mediaType] = INDEX_MEDIA_TYPES;
    const index = await this.#json({ schemaVersion: 2, mediaType, manifests }, mediaType);
    await tagManifest({ directory: this.directory, tag }, index);
  }

  #json(value: object, mediaType: string): Promise<Described> {
    return this.#blob(new Uint8Array(Buffer.from(JSON.stringify(value))), mediaType);
  }

  async #blob(bytes: Uint8Array, mediaType: string): Promise<Described> {
    const digest = digestOf(bytes);
    await putBlob(this.directory, digest, bytes);
    return { mediaType, digest, size: bytes.length };
  }
}

function compress(
  tar: Uint8Array,
  compression: NonNullable<LayerInit['compression']>,
): [blob: Uint8Array, suffix: string] {
  if (compression === 'gzip') return [new Uint8Array(gzipSync(tar)), '+gzip'];
  if (compression === 'zstd') return [new Uint8Array(zstdCompressSync(tar)), '+zstd'];
  return [tar, ''];
}
