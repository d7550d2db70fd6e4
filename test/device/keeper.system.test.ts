import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it, onTestFinished, vi } from 'vitest';
import type { BackendKind } from '../../src/device/backends.ts';
import { Keeper } from '../../src/device/keeper/keeper.ts';
import { kernelNbdFault } from '../../src/device/nbd/kernel.ts';
import { kernelNbds } from '../../src/device/nbd-devices.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { PatientClock } from '../kit/patient-clock.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { makeExt4Layer } from './kit/filesystem-layers.ts';
import { NO_TRACES, run, tracesOf } from './kit/images.ts';
import { readOnAndOn } from './kit/read-on.ts';

/** In an emulated machine, a process takes seconds to start. */
const WAIT = { timeout: 60_000, interval: 20 };

/** A keeper of a process that serves a mount; it is stopped when the test ends. */
async function startKeeper(backend: BackendKind = 'loop') {
  const folder = tempFolder();
  const { layer, files } = await makeExt4Layer(folder);
  writeFileSync(join(folder, 'layer'), layer);
  const program = fileURLToPath(new URL('./kit/kept-child.ts', import.meta.url));
  const [stateDir, dir] = [join(folder, 'state'), join(folder, 'mnt')];
  const args = ['--no-warnings', program, stateDir, join(folder, 'layer'), dir, backend];
  const keeper = new Keeper(
    { logger: silentLogger, clock: new PatientClock() },
    { program: { path: process.execPath, args } },
  );
  const ended = keeper.run();
  onTestFinished(async () => {
    keeper.stop();
    expect(await ended).toBe(0);
    expect(tracesOf(folder)).toEqual(NO_TRACES);
    expect(kernelNbds()).toEqual([]);
  });
  const pids = (): number[] => {
    const path = join(stateDir, 'pids');
    return existsSync(path) ? readFileSync(path, 'utf8').trim().split('\n').map(Number) : [];
  };
  const started = (count: number): Promise<void> =>
    vi.waitFor(() => expect(pids().length).toBeGreaterThanOrEqual(count), WAIT);
  await started(1);
  return { keeper, files, dir, pids, started };
}

/** Kills the process of a mount again and again, while a reader goes on. */
async function outlivesKills(backend: BackendKind, kills: number): Promise<void> {
  const { files, dir, pids, started } = await startKeeper(backend);
  const end = readOnAndOn(join(dir, 'deep', 'er', 'big'));
  for (let kill = 1; kill <= kills; kill++) {
    process.kill(pids().at(-1) ?? 0, 'SIGKILL');
    await started(kill + 1);
  }
  const results = await end();
  const sum = createHash('sha256')
    .update(readFileSync(join(files, 'deep', 'er', 'big')))
    .digest('hex');
  expect(results.map((result) => result.sum)).toEqual([sum]);
  expect(results[0]?.count).toBeGreaterThan(0);
  await run('diff', ['-r', '--exclude=lost+found', files, dir]);
}

const NBD_NEEDS = [needs.root, needs.program('mke2fs'), kernelNbdFault];

describeWith("Keeper, over the kernel's NBD driver,", NBD_NEEDS, () => {
  it('goes on with a mount when its process is killed: no read fails', () =>
    outlivesKills('nbd', 3));
});

describeWith('Keeper', [needs.root, needs.fuse, needs.program('mke2fs')], () => {
  it('goes on with a mount when its process is killed: no read fails', () =>
    outlivesKills('loop', 6));

  it('replace() puts a new process in the place of the running one', async () => {
    const { keeper, files, dir, pids, started } = await startKeeper();
    keeper.replace();
    await started(2);
    expect(new Set(pids()).size).toBe(2);
    await run('diff', ['-r', '--exclude=lost+found', files, dir]);
  });

  it('run() resolves with the code of a first process that does not start', async () => {
    const args = ['-e', 'process.exit(3)'];
    const keeper = new Keeper(
      { logger: silentLogger, clock: new PatientClock() },
      { program: { path: process.execPath, args } },
    );
    expect(await keeper.run()).toBe(3);
  });

  it('run() does not reject when the kernel makes no process', async () => {
    // Linux takes no argument of 128 KiB; Node throws that, as it does for missing memory.
    const args = ['x'.repeat(128 * 1024)];
    const keeper = new Keeper(
      { logger: silentLogger, clock: new PatientClock() },
      { program: { path: process.execPath, args } },
    );
    expect(await keeper.run()).toBe(1);
  });
});
