import { statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import type { BlobRef } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import type { BlobReader, ReadOptions } from '../transfer/contracts/blob-reader.ts';
import { defined } from '../util/assert.ts';
import { DeviceError } from './errors.ts';

/**
 * Layers that are files of this host, in front of a reader for all others. containerd downloads the
 * layers of an image whose puller does not say where it is from.
 */
export class LocalLayers implements BlobReader {
  readonly #others: BlobReader;
  readonly #files = new Map<Digest, { readonly path: string; users: number }>();

  constructor(components: { others: BlobReader }) {
    this.#others = components.others;
  }

  /**
   * Until as many `remove()`s, the file is what is read of the blob. Its bytes are those of the
   * blob's payload.
   */
  add(digest: Digest, path: string): void {
    const file = this.#files.get(digest);
    if (file === undefined) this.#files.set(digest, { path, users: 1 });
    else file.users++;
  }

  remove(digest: Digest): void {
    const file = defined(this.#files.get(digest), 'the layer is a file');
    file.users--;
    if (file.users === 0) this.#files.delete(digest);
  }

  /** Bytes of an added file. Throws DeviceError. */
  sizeOf(digest: Digest): number {
    const file = defined(this.#files.get(digest), 'the layer is a file').path;
    try {
      return statSync(file).size;
    } catch (cause) {
      throw unreadable(file, cause);
    }
  }

  async read(
    blob: BlobRef,
    offset: number,
    length: number,
    options: ReadOptions,
  ): Promise<Uint8Array> {
    const file = this.#files.get(blob.digest)?.path;
    if (file === undefined) return this.#others.read(blob, offset, length, options);
    try {
      const handle = await open(file);
      try {
        const { bytesRead, buffer } = await handle.read(Buffer.allocUnsafe(length), {
          position: offset,
        });
        if (bytesRead === length) return buffer;
        throw new Error(`it ends at ${offset + bytesRead}`);
      } finally {
        await handle.close();
      }
    } catch (cause) {
      throw unreadable(file, cause);
    }
  }

  readCached(blob: BlobRef, offset: number, length: number): Uint8Array | undefined {
    if (this.#files.has(blob.digest)) return undefined;
    return this.#others.readCached(blob, offset, length);
  }
}

function unreadable(file: string, cause: unknown): DeviceError {
  return new DeviceError(
    `the layer in ${file} cannot be read (${(cause as Error).message}): pull its image again`,
    { code: 'failed', step: 'reading a layer' },
    { cause },
  );
}
