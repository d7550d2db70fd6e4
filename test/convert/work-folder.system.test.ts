import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { text } from 'node:stream/consumers';
import { expect, onTestFinished, test } from 'vitest';
import { withWorkFolder } from '../../src/convert/work-folder.ts';
import { FakeRegistry } from '../kit/fake-registry.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { makeTarImage } from '../kit/tar-image.ts';
import { tempFolder } from '../kit/temp-folder.ts';

const BIN = new URL('../../bin/xylem.js', import.meta.url).pathname;

/** A conversion that waits for a layer; it is in the middle of its work. */
async function startConversion(work: string): Promise<ChildProcess> {
  const registry = new FakeRegistry();
  await registry.start();
  onTestFinished(() => registry.stop());
  const image = await makeTarImage([100_000]);
  registry.addImage(image);
  const layer = image.layers[0]?.digest ?? '';
  const { promise: asked, resolve } = Promise.withResolvers<void>();
  registry.behaviours.set('', ({ url = '' }) => {
    if (!url.includes(layer)) return false;
    resolve();
    return true;
  });
  const target = `oci:${join(tempFolder(), 'target')}:1`;
  const args = ['convert', '--insecure', '--work-dir', work];
  const names = [`docker://${registry.address}/app:1`, target];
  const child = spawn(process.execPath, [BIN, ...args, ...names], { stdio: 'ignore' });
  onTestFinished(() => void child.kill('SIGKILL'));
  await asked;
  return child;
}

/** The folders that `withWorkFolder()` says to have removed in this one. */
async function clearedIn(work: string): Promise<readonly string[]> {
  let cleared: readonly string[] = [];
  const isThere = await withWorkFolder(
    work,
    async (folder) => existsSync(folder),
    (folders) => (cleared = folders),
  );
  expect(isThere).toBe(true);
  return cleared;
}

describeWith('withWorkFolder()', [needs.program('mke2fs')], () => {
  test('gives an absolute path, for programs with another working directory', async () => {
    const base = tempFolder();
    const folder = await withWorkFolder(relative(process.cwd(), base), async (path) => path);
    expect(dirname(folder)).toBe(base);
  });

  test('removes what a killed conversion left, and nothing of one that runs', async () => {
    const work = tempFolder();
    const killed = await startConversion(work);
    const [first = ''] = readdirSync(work);
    const running = await startConversion(work);
    const others = readdirSync(work);
    expect(others).toHaveLength(2);
    expect(await clearedIn(work)).toEqual([]);
    killed.kill('SIGKILL');
    await once(killed, 'exit');
    expect(readdirSync(join(work, first))).toContain('disk');
    expect(await clearedIn(work)).toEqual([join(work, first)]);
    expect(readdirSync(work)).toEqual(others.filter((name) => name !== first));
    running.kill('SIGTERM');
    await once(running, 'exit');
    expect(readdirSync(work)).toEqual([]);
  });

  test('is told by the next conversion', async () => {
    const work = tempFolder();
    const killed = await startConversion(work);
    const [left = ''] = readdirSync(work);
    killed.kill('SIGKILL');
    await once(killed, 'exit');
    const rootfs = tempFolder();
    const target = `oci:${join(tempFolder(), 'target')}:1`;
    const args = ['convert', '--work-dir', work, `dir:${rootfs}`, target];
    const child = spawn(process.execPath, [BIN, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
    const [said, [code]] = await Promise.all([text(child.stderr), once(child, 'exit')]);
    expect(code).toBe(0);
    expect(said).toBe(`xylem: removed what killed commands had left: ${join(work, left)}\n`);
    expect(readdirSync(work)).toEqual([]);
  });

  test('leaves alone what has no lock, what is of others, and links', async () => {
    const work = tempFolder();
    const [victim, lock] = [join(tempFolder(), 'victim'), 'lock-1-0123456789abcdef'];
    mkdirSync(victim);
    for (const name of ['made-now', 'others', 'open'])
      mkdirSync(join(work, `xylem-convert-${name}`));
    for (const folder of [
      victim,
      ...['others', 'open'].map((name) => join(work, `xylem-convert-${name}`)),
    ]) {
      writeFileSync(join(folder, lock), '');
    }
    symlinkSync(victim, join(work, 'xylem-convert-link'));
    chmodSync(join(work, 'xylem-convert-open'), 0o777);
    if (process.getuid?.() === 0) chownSync(join(work, 'xylem-convert-others'), 65_534, 65_534);
    else chmodSync(join(work, 'xylem-convert-others'), 0o720);
    const before = readdirSync(work);
    expect(await clearedIn(work)).toEqual([]);
    expect(readdirSync(work)).toEqual(before);
    expect(readdirSync(victim)).toEqual([lock]);
  });
});
