import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { convertImage } from '../../src/convert/convert-image.ts';
import { BLOCK_IMAGE_DEFAULTS } from '../../src/convert/block-image-builder.ts';
import { LayoutPlace } from '../../src/convert/places/layout-place.ts';
import { NodeDecompressor } from '../../src/runtime/node/decompressor.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { codec } from './layers.ts';
import { putLayout } from './oci-layout.ts';

/** Linked statically, as Debian's busybox-static has it. */
const BUSYBOX = existsSync('/bin/busybox') ? '/bin/busybox' : '/usr/bin/busybox';

/** Programs of the image, all of busybox. */
const PROGRAMS = ['sh', 'cat', 'httpd', 'sleep', 'id', 'ls', 'mkdir', 'touch'];

/**
 * An image that runs, of two layers: busybox, and the folder `data`; in a layout in `folder`, as
 * tag `plain`, and as a block image, tag `block`.
 */
export async function makeBusyboxImage(
  folder: string,
  data: Readonly<Record<string, Uint8Array>>,
): Promise<string> {
  const [base, files] = [join(folder, 'base'), join(folder, 'files')];
  for (const path of ['bin', 'etc', 'tmp']) mkdirSync(join(base, path), { recursive: true });
  copyFileSync(BUSYBOX, join(base, 'bin/busybox'));
  chmodSync(join(base, 'bin/busybox'), 0o755);
  for (const name of PROGRAMS) symlinkSync('busybox', join(base, 'bin', name));
  writeFileSync(join(base, 'etc/passwd'), 'root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n');
  mkdirSync(join(files, 'data'), { recursive: true });
  for (const [name, bytes] of Object.entries(data)) {
    writeFileSync(join(files, 'data', name), bytes);
  }
  const layers = [base, files].map((path) => {
    execFileSync('tar', ['--owner=0', '--group=0', '-C', path, '-cf', `${path}.tar`, '.']);
    return new Uint8Array(readFileSync(`${path}.tar`));
  });
  const layout = join(folder, 'layout');
  mkdirSync(layout);
  await putLayout(layout, 'plain', layers);
  const parts = { codec, hash: new NodeHash(), decompressor: new NodeDecompressor() };
  const workFolder = join(folder, 'work');
  mkdirSync(workFolder);
  await convertImage(
    parts,
    {
      source: new LayoutPlace(parts, `oci:${layout}:plain`),
      target: new LayoutPlace(parts, `oci:${layout}:block`),
      cache: undefined,
      workFolder,
    },
    {
      ...BLOCK_IMAGE_DEFAULTS,
      deviceBytes: 2 ** 30,
      signal: new AbortController().signal,
      platform: undefined,
      asReferrer: false,
    },
  );
  return layout;
}
