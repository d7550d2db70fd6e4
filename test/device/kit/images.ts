import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import type { BlobRef } from '../../../src/image/block.ts';
import type { Digest } from '../../../src/image/digest.ts';
import { OVERLAYBD_ANNOTATION, type ResolvedImage } from '../../../src/image/manifest.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import type { BlobReader, ReadOptions } from '../../../src/transfer/contracts/blob-reader.ts';
import { toHex } from '../../../src/util/bytes.ts';

/** Runs a program: only other processes touch paths under the mounts that this process serves. */
export const run = promisify(execFile);

/**
 * Blobs in memory. `isWarm` makes all of them cached. A read fails when `gate` rejects, and waits
 * until it resolves.
 */
export class MemoryReader implements BlobReader {
  isWarm = false;
  gate: (blob: BlobRef, offset: number, length: number) => Promise<void> = () => Promise.resolve();
  readonly #blobs = new Map<Digest, Uint8Array>();

  add(bytes: Uint8Array): BlobRef {
    const digest = `sha256:${toHex(new NodeHash().sha256(bytes))}` as Digest;
    this.#blobs.set(digest, bytes);
    return { digest, sizeBytes: bytes.length };
  }

  async read(
    blob: BlobRef,
    offset: number,
    length: number,
    options: ReadOptions,
  ): Promise<Uint8Array> {
    options.signal?.throwIfAborted();
    const { promise, reject } = Promise.withResolvers<never>();
    options.signal?.addEventListener('abort', () => reject(options.signal?.reason));
    await Promise.race([this.gate(blob, offset, length), promise]);
    return this.#bytes(blob, offset, length).slice();
  }

  readCached(blob: BlobRef, offset: number, length: number): Uint8Array | undefined {
    return this.isWarm ? this.#bytes(blob, offset, length) : undefined;
  }

  #bytes(blob: BlobRef, offset: number, length: number): Uint8Array {
    const bytes = this.#blobs.get(blob.digest)?.subarray(offset, offset + length);
    if (bytes?.length !== length) throw new Error(`no bytes ${offset}+${length} of ${blob.digest}`);
    return bytes;
  }
}

/** An image of these layers (bottom first). */
export function imageOf(layers: readonly BlobRef[], fsType?: string): ResolvedImage {
  const annotations: Record<string, string> = {};
  if (fsType !== undefined) annotations[`${OVERLAYBD_ANNOTATION}blob-fs-type`] = fsType;
  const descriptors = layers.map(({ digest, sizeBytes }) => ({
    mediaType: 'application/vnd.oci.image.layer.v1.tar',
    digest,
    size: sizeBytes,
    annotations,
  }));
  const first = descriptors[0];
  if (first === undefined) throw new Error('an image has a layer');
  const manifest = { mediaType: '', config: first, layers: descriptors, annotations: {} };
  const origin = { registry: 'registry.example', repository: 'app' };
  return { reference: 'registry.example/app:1', digest: first.digest, manifest, origin };
}

/** All traces on the host of mounts under this folder. */
export function tracesOf(folder: string): { mounts: string[]; loops: string[] } {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line.includes(folder));
  const loops = readdirSync('/sys/block')
    .filter((name) => name.startsWith('loop'))
    .filter((name) => backingFile(name).includes(folder));
  return { mounts, loops };
}

export const NO_TRACES = { mounts: [], loops: [] };

function backingFile(loop: string): string {
  try {
    return readFileSync(`/sys/block/${loop}/loop/backing_file`, 'utf8');
  } catch {
    return '';
  }
}
