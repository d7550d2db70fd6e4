import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeLayer, sampleBytes } from '../../kit/layers.ts';
import { run } from './images.ts';

/** The files of an image, in a new folder. */
function makeFiles(folder: string): string {
  const files = join(folder, 'files');
  mkdirSync(join(files, 'deep', 'er'), { recursive: true });
  writeFileSync(join(files, 'small.txt'), 'xylem\n');
  writeFileSync(join(files, 'deep', 'er', 'big'), sampleBytes(5 * 1024 * 1024 + 123, 7));
  for (let i = 0; i < 50; i++) {
    writeFileSync(join(files, 'deep', `file-${i}`), sampleBytes(i * 997, i));
  }
  return files;
}

/** A block layer that holds an EROFS, and the folder of its files. `change` has its bytes. */
export async function makeErofsLayer(
  folder: string,
  change: (device: Buffer) => void = () => {},
): Promise<{ layer: Uint8Array; files: string }> {
  const files = makeFiles(folder);
  const device = join(folder, 'device.erofs');
  await run('/usr/bin/mkfs.erofs', [device, files]);
  const bytes = readFileSync(device);
  change(bytes);
  writeFileSync(device, bytes);
  return { layer: await layerOf(device), files };
}

/** A block layer that holds an ext4 of 16 MiB, and the folder of its files. */
export async function makeExt4Layer(
  folder: string,
  blockBytes = 4096,
): Promise<{ layer: Uint8Array; files: string }> {
  const files = makeFiles(folder);
  const device = join(folder, 'device.ext4');
  const options = [
    '-q',
    '-F',
    '-t',
    'ext4',
    '-b',
    `${blockBytes}`,
    '-O',
    '^has_journal',
    '-d',
    files,
  ];
  await run('/usr/sbin/mke2fs', [...options, device, '16M']);
  return { layer: await layerOf(device), files };
}

function layerOf(device: string): Promise<Uint8Array> {
  const bytes = readFileSync(device);
  return makeLayer({ virtualSizeBytes: bytes.length, ranges: [{ offset: 0, bytes }] });
}
