import { execFileSync } from 'node:child_process';
import { linkSync, mkdirSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { readSmall } from '../../../src/convert/places/layout-files.ts';
import { TarFiles } from '../../../src/convert/places/tar-files.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

const { signal } = new AbortController();
const LONG = `${'folder'.repeat(20)}/${'name'.repeat(20)}`;

/** The texts of files in the archive; undefined for one that is not there. */
async function textsIn(archive: string, names: readonly string[]) {
  const files = await TarFiles.open(archive, signal);
  const texts = names.map(async (name) => {
    const bytes = await readSmall(files, name, 1000);
    return bytes && Buffer.from(bytes).toString();
  });
  return Promise.all(texts);
}

test.each(['gnu', 'pax', 'oldgnu'])(
  'TarFiles.open() finds what GNU tar wrote as %s',
  async (format) => {
    const folder = tempFolder();
    mkdirSync(join(folder, 'a', 'b'), { recursive: true });
    mkdirSync(join(folder, LONG, '..'), { recursive: true });
    writeFileSync(join(folder, 'a', 'file'), 'one');
    writeFileSync(join(folder, LONG), 'two');
    symlinkSync('../file', join(folder, 'a', 'b', 'soft'));
    linkSync(join(folder, 'a', 'file'), join(folder, 'hard'));
    symlinkSync('loop', join(folder, 'loop'));
    const archive = join(tempFolder(), 'x.tar');
    execFileSync('tar', [`--format=${format}`, '-C', folder, '-cf', archive, '.']);
    const names = ['a/file', './a/file', LONG, 'a/b/soft', 'hard', 'loop', 'a', 'none'];
    const [one, none] = ['one', undefined];
    expect(await textsIn(archive, names)).toEqual([one, one, 'two', one, one, none, none, none]);
  },
);

test('TarFiles.open() goes past files of more than 8 GiB', async () => {
  const folder = tempFolder();
  writeFileSync(join(folder, 'large'), '');
  truncateSync(join(folder, 'large'), 9 * 2 ** 30);
  writeFileSync(join(folder, 'last'), 'three');
  for (const format of ['gnu', 'pax']) {
    const archive = join(folder, `${format}.tar`);
    // Of the large file only its header is written: its data is a hole in the archive.
    const part = (name: string): Buffer =>
      execFileSync('sh', [
        '-c',
        `tar --format=${format} -C "$0" -cf - ${name} 2>/dev/null | head -c 2048`,
        folder,
      ]);
    const head = part('large');
    const headBytes = head.lastIndexOf('ustar') - 257 + 512;
    writeFileSync(archive, head.subarray(0, headBytes));
    truncateSync(archive, headBytes + 9 * 2 ** 30);
    writeFileSync(archive, part('last'), { flag: 'a' });
    expect(await textsIn(archive, ['last'])).toEqual(['three']);
  }
});
