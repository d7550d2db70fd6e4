import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { blobPath, parseLayoutTarget, readTag } from '../../src/convert/oci-layout.ts';
import { blockLayers } from '../../src/image/manifest.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { bytesOf, END, joined, member } from '../kit/tar-encoder.ts';
import { putLayout } from '../kit/oci-layout.ts';
import { tempFolder } from '../kit/temp-folder.ts';

const XYLEM = new URL('../../bin/xylem.js', import.meta.url).pathname;

function xylem(...args: readonly string[]): { status: number | null; out: string; err: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [XYLEM, ...args]);
  return { status, out: stdout.toString(), err: stderr.toString() };
}

const layer = (text: string): readonly Uint8Array[] => [
  joined(
    member({ path: 'etc', type: '5', mode: 0o755, mtime: 7 }),
    member({ path: 'etc/name', mtime: 8 }, bytesOf(text)),
    member({ path: 'link', type: '2', mode: 0o777, linkTarget: 'etc/name' }),
    member({ path: 'etc/other', type: '1', linkTarget: 'etc/name', mtime: 8 }),
    END,
  ),
];

/** A layout with two ordinary images, and a block image of the first of them. */
async function images(): Promise<{ layout: string; work: string }> {
  const folder = tempFolder();
  const [layout, work] = [join(folder, 'layout'), join(folder, 'work')];
  mkdirSync(work);
  await putLayout(layout, 'one', layer('one'));
  await putLayout(layout, 'two', layer('two'));
  const made = xylem('convert', '--referrer', `oci:${layout}:one`, `oci:${layout}:block`);
  expect(made).toMatchObject({ status: 0, err: '' });
  return { layout, work };
}

describeWith('xylem check', [needs.program('mke2fs')], () => {
  it('finds a block image to be the same as its original, and other ones to differ', async () => {
    const { layout, work } = await images();
    const check = (...args: readonly string[]) =>
      xylem('check', '--work-dir', work, `oci:${layout}:block`, ...args);
    const same = check(`oci:${layout}:one`);
    expect(same).toMatchObject({ status: 0, err: '' });
    expect(same.out).toContain('same 4 files and directories');
    expect(check().out).toBe(same.out);
    const other = check(`oci:${layout}:two`);
    expect(other).toMatchObject({ status: 1, err: '' });
    expect(other.out).toContain('1 differences');
    expect(other.out).toContain('/etc/name: content differs');
    const facts: unknown = JSON.parse(check('--json', `oci:${layout}:two`).out);
    expect(facts).toMatchObject({
      isSound: false,
      platforms: [
        {
          platform: { os: 'linux', architecture: 'amd64' },
          layers: [{ ok: true, hasBlockDigests: true, isCovered: true }],
          comparison: { entryCount: 4, differenceCount: 1 },
        },
      ],
    });
    expect(readdirSync(work)).toEqual([]);
  });

  it('finds a blob that is damaged, and compares nothing', async () => {
    const { layout, work } = await images();
    const target = parseLayoutTarget(`oci:${layout}:block`);
    const [blob] = blockLayers(await readTag(target));
    const path = blobPath(layout, blob!.digest);
    const bytes = readFileSync(path);
    bytes[2000] = (bytes[2000] ?? 0) ^ 1;
    writeFileSync(path, bytes);
    const { status, out } = xylem('check', '--work-dir', work, `oci:${layout}:block`);
    expect(status).toBe(1);
    expect(out).toContain(`bad  ${blob!.digest}: blob is damaged: its digest is`);
    expect(out).toContain('not compared: its layers are bad');
    expect(readdirSync(work)).toEqual([]);
  });

  it('takes block images in archives, where `xylem convert` puts them too', async () => {
    const folder = tempFolder();
    const layout = join(folder, 'layout');
    await putLayout(layout, 'one', layer('one'));
    const [plain, block] = ['plain.tar', 'block.tar'].map((name) => join(folder, name));
    expect(xylem('copy', `oci:${layout}:one`, `docker-archive:${plain}`)).toMatchObject({
      err: '',
    });
    const made = xylem('convert', `docker-archive:${plain}`, `docker-archive:${block}:app:1`);
    expect(made).toMatchObject({ status: 0, err: '' });
    const checked = xylem('check', `docker-archive:${block}:app:1`, `oci:${layout}:one`);
    expect(checked).toMatchObject({ status: 0, err: '' });
    expect(checked.out).toContain('same 4 files and directories');
    const help = xylem('convert', '--help').out.replaceAll(/\s+/g, ' ');
    const places = 'docker://HOST/NAME:TAG, oci:DIR:tag or docker-archive:FILE[:REF]';
    expect(help).toContain(`SRC: ${places}, or dir:PATH DST: ${places}; an archive`);
  });

  it('says what is missing', async () => {
    const { layout } = await images();
    expect(xylem('check', `oci:${layout}:none`).err).toContain('no image with the tag none');
    expect(xylem('check', `oci:${layout}:one`).out).toContain('not compared');
    const twice = xylem('check', `oci:${layout}:block`, `oci:${layout}:block`);
    expect(twice.err).toContain('it is a block image already');
  });
});
