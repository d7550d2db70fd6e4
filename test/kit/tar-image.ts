import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Digest } from '../../src/image/digest.ts';
import { putLayout } from './oci-layout.ts';
import { digestOf } from './registry-content.ts';
import { tempFolder, type AtEnd } from './temp-folder.ts';

/** An image that containerd can unpack. */
export interface TarImage {
  /** OCI layout folder that holds the image as tag `1`. */
  readonly layout: string;
  readonly digest: Digest;
  readonly layers: readonly { readonly digest: Digest; readonly sizeBytes: number }[];
}

/** Makes an image with one layer per size: a tar of one file of that many random bytes. */
export async function makeTarImage(
  sizesBytes: readonly number[],
  atEnd?: AtEnd,
): Promise<TarImage> {
  const folder = tempFolder(atEnd);
  const layers = sizesBytes.map((sizeBytes, i) => {
    const name = `file-${i}`;
    writeFileSync(join(folder, name), randomBytes(sizeBytes));
    execFileSync('tar', ['-C', folder, '-cf', join(folder, `${name}.tar`), name]);
    return new Uint8Array(readFileSync(join(folder, `${name}.tar`)));
  });
  const layout = join(folder, 'layout');
  mkdirSync(layout);
  const { digest } = await putLayout(layout, '1', layers);
  const described = layers.map((bytes) => ({ digest: digestOf(bytes), sizeBytes: bytes.length }));
  return { layout, digest, layers: described };
}
