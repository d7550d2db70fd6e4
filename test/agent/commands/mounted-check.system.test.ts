import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { imageMounter } from '../../../src/agent/commands/mounted-image.ts';
import { blobPath, parseLayoutTarget, readTag } from '../../../src/convert/oci-layout.ts';
import type { Digest } from '../../../src/image/digest.ts';
import { HARD_FILES, tarOfFolder } from '../../convert/kit/hard-files.ts';
import { NO_TRACES, tracesOf } from '../../device/kit/images.ts';
import { python } from '../../kit/file-trees.ts';
import { putLayout } from '../../kit/oci-layout.ts';
import { describeWith, needs } from '../../kit/requires.ts';
import { bytesOf, END, joined, member } from '../../kit/tar-encoder.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

const BIN = new URL('../../../bin/xylem.js', import.meta.url).pathname;
const LIMIT = { timeout: 30_000, interval: 5 };

interface Outcome {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs `xylem`, as another user where one is named, with temporary files in the folder. */
function xylem(work: string, args: readonly string[], user?: number): Promise<Outcome> {
  const as = ['--reuid', String(user), '--clear-groups', process.execPath];
  const [program, ...rest] =
    user === undefined ? [process.execPath, BIN, ...args] : ['setpriv', ...as, BIN, ...args];
  const env = { ...process.env, TMPDIR: work, HOME: work };
  return new Promise((resolve) => {
    execFile(program ?? '', rest, { env, cwd: '/' }, (error, out, err) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, out, err });
    });
  });
}

/** An image of these layers, a place for a block image, and an empty folder; open to all. */
async function makeLayout(layers: readonly Uint8Array[]) {
  const folder = tempFolder();
  const [layout, work] = [join(folder, 'layout'), join(folder, 'work')];
  mkdirSync(work);
  await putLayout(layout, 'plain', layers);
  for (const path of [
    folder,
    layout,
    work,
    ...['blobs', 'blobs/sha256'].map((p) => join(layout, p)),
  ]) {
    chmodSync(path, 0o777);
  }
  return { layout, work, plain: `oci:${layout}:plain`, block: `oci:${join(folder, 'block')}:1` };
}

const text = (content: string): Uint8Array =>
  joined(member({ path: 'd/file' }, bytesOf(content)), member({ path: 'd/same' }), END);

const NEEDS = [
  ...[needs.root, needs.fuse],
  ...['mke2fs', 'unshare', 'setpriv', 'python3', 'tar'].map(needs.program),
];

describeWith('xylem convert --verify and check --mount', NEEDS, () => {
  test('compare the files as the kernel shows them, hard ones too', async () => {
    const files = join(tempFolder(), 'files');
    mkdirSync(files);
    python(files, HARD_FILES);
    const { work, plain, block } = await makeLayout([tarOfFolder(files), text('x')]);
    const made = await xylem(work, ['convert', '--json', '--verify', plain, block]);
    expect(made).toMatchObject({ code: 0, err: '' });
    const { verified } = JSON.parse(made.out) as { verified: { platforms: object[] } };
    const same = { entryCount: 22, differenceCount: 0 };
    expect(verified).toMatchObject({
      isSound: true,
      platforms: [{ comparison: same, mounted: same }],
    });
    const checked = await xylem(work, ['check', '--mount', block, plain]);
    expect(checked).toMatchObject({ code: 0, err: '' });
    expect(checked.out.match(/ {2}same 22 files and directories/g)).toHaveLength(2);
    expect(checked.out.trimEnd()).toMatch(/, mounted$/);
    expect(tracesOf(work)).toEqual(NO_TRACES);
    expect(readdirSync(work)).toEqual([]);
  });

  test('tell differences that the kernel shows', async () => {
    const { layout, work, plain, block } = await makeLayout([text('one')]);
    await putLayout(layout, 'other', [text('two')]);
    expect(await xylem(work, ['convert', plain, block])).toMatchObject({ code: 0 });
    const checked = await xylem(work, ['check', '--mount', '--json', block, `oci:${layout}:other`]);
    expect(checked.code).toBe(1);
    const differences = { differenceCount: 1, differences: ['/d/file: content differs'] };
    expect(JSON.parse(checked.out)).toMatchObject({
      isSound: false,
      platforms: [{ comparison: differences, mounted: differences }],
    });
  });

  test('say in a line why an image is not mounted, and fail where that was asked', async () => {
    const { work, plain, block } = await makeLayout([text('one')]);
    const made = await xylem(work, ['convert', '--verify', plain, block], 65_534);
    expect(made).toMatchObject({ code: 0, err: '' });
    expect(made.out).toContain('\n  same 3 files and directories');
    expect(made.out).toContain(
      '\n  not mounted: the image cannot be mounted here: it takes root\n',
    );
    const checked = await xylem(work, ['check', '--mount', '--json', block, plain], 65_534);
    expect(checked.code).toBe(1);
    expect(JSON.parse(checked.out)).toMatchObject({ code: 'not-permitted' });
    expect(readdirSync(work)).toEqual([]);
  });

  test('leave nothing mounted when they are killed', async () => {
    const members = Array.from({ length: 20_000 }, (_, i) => member({ path: `many/${i}` }));
    const { work, plain, block } = await makeLayout([joined(...members, END)]);
    expect(await xylem(work, ['convert', plain, block])).toMatchObject({ code: 0 });
    const args = [BIN, 'check', '--mount', '--work-dir', work, block, plain];
    const child = spawn(process.execPath, args, { stdio: 'ignore' });
    onTestFinished(() => void child.kill('SIGKILL'));
    await vi.waitFor(() => expect(tracesOf(work).loops).toHaveLength(1), LIMIT);
    // It is in a namespace of its own.
    expect(tracesOf(work).mounts).toEqual([]);
    child.kill('SIGKILL');
    await once(child, 'exit');
    await vi.waitFor(() => expect(tracesOf(work)).toEqual(NO_TRACES), LIMIT);
    expect(readdirSync(work)).toHaveLength(1);
    expect(await xylem(work, ['check', '--work-dir', work, block, plain])).toMatchObject({
      code: 0,
    });
    expect(readdirSync(work)).toEqual([]);
  });

  test('give an error of the process that mounts', async () => {
    const { work, plain, block } = await makeLayout([text('one')]);
    expect(await xylem(work, ['convert', plain, block])).toMatchObject({ code: 0 });
    const { directory, tag } = parseLayoutTarget(block);
    const manifest = await readTag({ directory, tag });
    const pathOf = (digest: Digest): string => blobPath(directory, digest);
    const image = { reference: block, digest: manifest.config.digest, manifest, pathOf };
    const mount = imageMounter({ folder: work, must: true });
    const found = await mount(image, async (root) => {
      expect(tracesOf(work).loops).toHaveLength(1);
      return readFileSync(join(root, 'd/file'), 'utf8');
    });
    expect(found).toBe('one');
    const lost = { ...image, pathOf: (): string => '/nonexistent' };
    await expect(mount(lost, async () => {})).rejects.toThrow('cannot open /nonexistent');
    const tried = await imageMounter({ folder: work, must: false })(lost, async () => {});
    expect(tried).toMatchObject({ reason: expect.stringContaining('/nonexistent') as string });
    expect(existsSync(join(work, 'mounted', 'root'))).toBe(false);
    expect(tracesOf(work)).toEqual(NO_TRACES);
  });
});
