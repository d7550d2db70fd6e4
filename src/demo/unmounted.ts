import { createHash } from 'node:crypto';
import { accessSync, constants } from 'node:fs';
import { ImageDisk } from '../device/image-disk.ts';
import type { BlobOrigin } from '../image/block.ts';
import type { Manifest } from '../image/manifest.ts';
import { NodeCodec } from '../runtime/node/codec.ts';
import { HttpBlobReader } from './http-blob-reader.ts';

/** One read of 1 MiB in every 4 MiB of the disk: a good part of the image, with gaps. */
const READ_BYTES = 1024 * 1024;
const STEP_BYTES = 4 * READ_BYTES;

/** Why this process cannot mount images; undefined when it probably can. */
export function whyNotMountable(): string | undefined {
  if (process.getuid?.() !== 0) return 'not root';
  try {
    accessSync('/dev/fuse', constants.R_OK | constants.W_OK);
    accessSync('/dev/loop-control', constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

/**
 * Reads a part of the image from the local endpoint of an agent, through the code of the device but
 * without a mount. Gives the SHA-256 of the bytes in hex.
 */
export async function readUnmounted(
  base: string,
  image: { manifest: Manifest; origin: BlobOrigin },
): Promise<string> {
  const reader = new HttpBlobReader({ base, origin: image.origin });
  try {
    const disk = await ImageDisk.open({ reader, codec: new NodeCodec() }, image.manifest);
    const hash = createHash('sha256');
    const target = new Uint8Array(READ_BYTES);
    for (let offset = 0; offset + READ_BYTES <= disk.sizeBytes; offset += STEP_BYTES) {
      await disk.read(target, offset);
      hash.update(target);
    }
    disk.close();
    return hash.digest('hex');
  } finally {
    reader.close();
  }
}
