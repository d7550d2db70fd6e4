import { execFile, execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { describeWith, needs } from '../../kit/requires.ts';
import { sampleBytes } from '../../kit/layers.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

const run = promisify(execFile);
const BIN = new URL('../../../bin/xylem.js', import.meta.url).pathname;

describeWith('xylem verify', [needs.program('mke2fs'), needs.program('jq')], () => {
  test('its examples find nothing wrong with what convert made', async () => {
    const folder = tempFolder();
    mkdirSync(join(folder, 'files'));
    writeFileSync(join(folder, 'files', 'data'), sampleBytes(300_000, 5));
    const xylem = (...args: readonly string[]): string =>
      execFileSync(process.execPath, [BIN, ...args], { cwd: folder, encoding: 'utf8' });
    xylem('convert', 'dir:files', 'oci:./images:app-1.4', '--size', '64MiB');
    const [{ blob }] = JSON.parse(xylem('verify', '--json', 'oci:./images:app-1.4')) as [
      { readonly blob: string },
    ];
    const stored = `images/blobs/${blob.replace(':', '/')}`;
    copyFileSync(join(folder, stored), join(folder, 'layer.overlaybd.commit'));
    const [, examples = ''] = xylem('verify', '--help').split('Examples:\n');
    const lines = examples.trim().split('\n');
    expect(lines.length).toBeGreaterThan(2);
    for (const line of lines) {
      const script = `xylem() { '${process.execPath}' '${BIN}' "$@"; }; set -e; ${line}`;
      const { stdout } = await run('sh', ['-c', script], { cwd: folder });
      expect(stdout, line).not.toMatch(/\b(bad|false)\b/);
    }
    // The manifest and the config lie beside the layers.
    const all = run('sh', ['-c', `'${process.execPath}' '${BIN}' verify images/blobs/sha256/*`], {
      cwd: folder,
    });
    await expect(all).rejects.toMatchObject({
      stdout: expect.stringContaining('name its image as oci:DIR:tag') as string,
    });
  });
});
