import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished } from 'vitest';
import type { ReadOnlyDisk } from '../../src/device/disk.ts';
import { FuseServer } from '../../src/device/fuse/fuse-server.ts';
import { deviceMetrics } from '../../src/device/metrics.ts';
import { kernelNbdFault } from '../../src/device/nbd/kernel.ts';
import { NbdMount } from '../../src/device/nbd/nbd-mount.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { silentMetrics } from '../../src/runtime/metrics.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { itServesDisks, type Backend, type OpenDevice } from './kit/backend-contract.ts';
import { FileReader } from './kit/file-reader.ts';
import { NO_TRACES, run, tracesOf } from './kit/images.ts';
import { serveNbd } from './kit/nbd-service.ts';

/** A device over a file, or a block device, that another process reads. */
function overFile(
  path: string,
  init: { sizeBytes: number; stop: () => Promise<void> },
): OpenDevice {
  const reader = new FileReader(path);
  onTestFinished(() => reader.close());
  return {
    sizeBytes: init.sizeBytes,
    read: (offset, length) => reader.read(offset, length),
    write: () => reader.write(),
    stop: init.stop,
  };
}

/** The disk as the file of a FUSE filesystem; `stop` ends it, whatever is in flight. */
function serveFuse(disk: ReadOnlyDisk): { file: string; stop: () => Promise<void> } {
  const path = join(tempFolder(), 'fuse');
  mkdirSync(path);
  const server = new FuseServer(
    {
      disk,
      clock: new SystemClock(),
      logger: silentLogger,
      metrics: deviceMetrics(silentMetrics),
    },
    { path },
  );
  server.mount();
  const stop = async (): Promise<void> => {
    // Busy while a reader has the file open: but its reads fail, and it is detached.
    await run('umount', ['-f', path]).catch(() => {});
    await run('umount', ['-l', path]).catch(() => {});
  };
  onTestFinished(async () => {
    await stop();
    await server.ended;
    expect(tracesOf(path)).toEqual(NO_TRACES);
  });
  return { file: join(path, 'image'), stop };
}

const overFuse: Backend = async (disk) => {
  const { file, stop } = serveFuse(disk);
  const sizeBytes = Number((await run('stat', ['-c', '%s', file])).stdout);
  return overFile(file, { sizeBytes, stop });
};

const overLoop: Backend = async (disk) => {
  const { file, stop } = serveFuse(disk);
  const options = ['--find', '--show', '--read-only', '--direct-io=on', '-b', '4096'];
  const device = (await run('losetup', [...options, file])).stdout.trim();
  onTestFinished(async () => void (await run('losetup', ['-d', device])));
  const sizeBytes = Number((await run('blockdev', ['--getsize64', device])).stdout);
  return overFile(device, { sizeBytes, stop });
};

const overNbdFuse: Backend = async (disk) => {
  const { server, path } = await serveNbd({ '': disk });
  const folder = tempFolder();
  const file = join(folder, 'disk');
  const pidFile = join(tempFolder(), 'pid');
  writeFileSync(file, '');
  const child = spawn('nbdfuse', ['-r', '-P', pidFile, file, '--unix', path], { stdio: 'ignore' });
  const closed = once(child, 'close');
  onTestFinished(async () => {
    await run('umount', ['-l', file]).catch(() => {});
    await closed;
  });
  await until(() => existsSync(pidFile));
  const sizeBytes = Number((await run('stat', ['-c', '%s', file])).stdout);
  return overFile(file, { sizeBytes, stop: () => server.close() });
};

const overKernelNbd: Backend = async (disk) => {
  const components = { disk, clock: new SystemClock(), logger: silentLogger };
  const mount = NbdMount.attach(
    { ...components, metrics: deviceMetrics(silentMetrics) },
    { identifier: 'xylem-test', deadConnectionSeconds: 10 },
  );
  const stop = (): Promise<void> => {
    mount.end();
    return mount.ended;
  };
  onTestFinished(stop);
  const sizeBytes = Number((await run('blockdev', ['--getsize64', mount.path])).stdout);
  return overFile(mount.path, { sizeBytes, stop });
};

/** Waits for what another process does. */
async function until(isDone: () => boolean): Promise<void> {
  const clock = new SystemClock();
  while (!isDone()) await clock.sleep(10);
}

describe('every backend of a device', () => {
  describeWith('FUSE', [needs.root, needs.fuse], () => itServesDisks(overFuse));
  describeWith('FUSE and loop', [needs.root, needs.fuse, needs.program('losetup')], () =>
    itServesDisks(overLoop),
  );
  describeWith('NBD through nbdfuse', [needs.root, needs.fuse, needs.program('nbdfuse')], () =>
    // It sends nothing on a connection on which it waits for a reply, and chooses one at random.
    itServesDisks(overNbdFuse, { answersOutOfOrder: false }),
  );
  describeWith("the kernel's NBD driver", [needs.root, kernelNbdFault], () =>
    itServesDisks(overKernelNbd),
  );
});
