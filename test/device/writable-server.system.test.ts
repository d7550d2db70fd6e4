import { spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { runInHelper } from '../../src/device/mount/mount-process.ts';
import type { MountResult } from '../../src/device/mount/mount-steps.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import { sampleBytes } from '../kit/layers.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { NO_TRACES, run, tracesOf } from './kit/images.ts';

const MIB = 1024 * 1024;
const DEVICE_BYTES = 96 * MIB;
const SERVER = new URL('kit/writable-server.ts', import.meta.url).pathname;
const FILE_COUNT = 12;

/** A folder with an ext4 without a journal, as images have it, and places for mounts. */
async function baseFolder(): Promise<string> {
  const folder = tempFolder();
  for (const name of ['fuse', 'root', 'content']) mkdirSync(join(folder, name));
  writeFileSync(join(folder, 'content/of-the-image'), sampleBytes(3 * MIB, 1));
  const options = ['-q', '-t', 'ext4', '-O', '^has_journal', '-d', join(folder, 'content')];
  await run('/usr/sbin/mke2fs', [...options, join(folder, 'base'), `${DEVICE_BYTES / 1024}k`]);
  onTestFinished(async () => {
    await run('umount', ['-l', join(folder, 'root')]).catch(() => {});
    await run('umount', ['-f', join(folder, 'fuse')]).catch(() => {});
    expect(tracesOf(folder)).toEqual(NO_TRACES);
  });
  return folder;
}

async function serve(folder: string): Promise<ChildProcess> {
  const child = spawn(process.execPath, ['--no-warnings', SERVER, folder, String(DEVICE_BYTES)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  const [text] = (await once(child.stdout, 'data')) as [Buffer];
  expect(text.toString()).toBe('ready\n');
  return child;
}

/** Runs a script with a loop device over the served file, `$loop`, which ends with its users. */
async function onLoop(folder: string, script: string): Promise<void> {
  const make = 'loop=$(losetup -f --show --direct-io=on "$1/fuse/image") || exit';
  const whole = `${make}; ${script}; code=$?; losetup -d "$loop"; exit $code`;
  await run('sh', ['-c', whole, '-', folder]);
}

/** Mounts the served filesystem for writes at `FOLDER/root`, by the steps of the device process. */
async function mountRoot(folder: string): Promise<MountResult> {
  const target = join(folder, 'root');
  const targetFd = openSync(target, 'r');
  onTestFinished(() => closeSync(targetFd));
  const request = { do: 'mount', fuseDir: join(folder, 'fuse'), target, writable: 'dir' } as const;
  const limit = { timeoutMs: 60_000, targetFd };
  return runInHelper({ clock: new SystemClock() }, request, limit);
}

/** Has the ext4 in a file say that its journal is on another device: 8:1, a disk of most hosts. */
function moveJournal(path: string): void {
  const bytes = readFileSync(path);
  const at = 1024;
  bytes.writeUInt32LE(bytes.readUInt32LE(at + 92) | 4, at + 92);
  bytes.writeUInt32LE(0, at + 224);
  bytes.writeUInt32LE(0x801, at + 228);
  writeFileSync(path, bytes);
}

async function unmountRoot(folder: string, force: boolean): Promise<void> {
  const [fuseDir, target] = [join(folder, 'fuse'), join(folder, 'root')];
  const request = { do: 'unmount', fuseDir, target, force, writable: 'dir' } as const;
  const result = await runInHelper({ clock: new SystemClock() }, request, { timeoutMs: 60_000 });
  expect(result).toEqual({ kind: 'unmounted' });
}

/** The sha256 of a file on the device, read by another process. */
async function sumOf(path: string): Promise<string> {
  return (await run('sha256sum', [path])).stdout.slice(0, 64);
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

describeWith(
  'WritableFuseServer',
  [needs.root, needs.fuse, needs.program('mke2fs'), needs.program('losetup'), needs.program('fio')],
  () => {
    it('refuses a journal on another device', async () => {
      const folder = await baseFolder();
      moveJournal(join(folder, 'base'));
      await serve(folder);
      const result = await mountRoot(folder);
      expect(result).toEqual({ kind: 'names-devices', filesystem: 'ext4' });
      await unmountRoot(folder, true);
    });

    it('a filesystem on it keeps what was synced when its server is killed', async () => {
      const folder = await baseFolder();
      const [image, root] = [join(folder, 'fuse/image'), join(folder, 'root')];
      const before = await sumOf(join(folder, 'base'));
      const first = await serve(folder);
      expect(await mountRoot(folder)).toMatchObject({ kind: 'mounted' });
      const sums = new Map([['of-the-image', sha256(sampleBytes(3 * MIB, 1))]]);
      for (let i = 0; i < FILE_COUNT; i++) {
        const source = join(folder, `source-${i}`);
        const bytes = sampleBytes(100_000 * (1 + (i % 4)), 10 + i);
        writeFileSync(source, bytes);
        // Each file is written twice, so that its blocks are live and dead.
        const script = 'cp "$1" "$2" && sync "$2" && cp "$1" "$2.new" && mv "$2.new" "$2" && sync';
        await run('sh', ['-c', script, '-', source, join(root, `file-${i}`)]);
        sums.set(`file-${i}`, sha256(bytes));
        if (i % 5 === 4) await run('sh', ['-c', `rm "${root}/file-${i}" && fstrim "${root}"`]);
        if (i % 5 === 4) sums.delete(`file-${i}`);
      }
      // Writes are in flight when the server dies.
      const load = 'i=0; while :; do head -c 300000 /dev/urandom > "$1/load-$i" || exit; ';
      const writer = spawn('sh', ['-c', `${load} sync; i=$((i+1)); done`, '-', root], {
        stdio: 'ignore',
      });
      const over = once(writer, 'exit');
      onTestFinished(() => void writer.kill('SIGKILL'));
      await waitForLoad(root);
      first.kill('SIGKILL');
      await over;
      await unmountRoot(folder, true);

      const second = await serve(folder);
      const ended = once(second, 'exit');
      expect(await mountRoot(folder)).toMatchObject({ kind: 'mounted' });
      for (const [name, sum] of sums)
        expect([name, await sumOf(join(root, name))]).toEqual([name, sum]);
      await run('umount', [root]);
      await run('/usr/sbin/e2fsck', ['-fn', image]);
      const { stdout } = await run('/usr/sbin/dumpe2fs', ['-h', image]);
      expect(stdout).toContain('has_journal');
      await unmountRoot(folder, false);
      expect(await ended).toEqual([0, null]);
      expect(await sumOf(join(folder, 'base'))).toBe(before);
    });

    it('gives fio the checksummed blocks that it wrote, over holes, at depth', async () => {
      const folder = await baseFolder();
      await serve(folder);
      const verify = '--verify=crc32c --verify_fatal=1 --verify_state_save=0 --randseed=3';
      const load = '--ioengine=libaio --direct=1 --bsrange=4k-64k --iodepth=16 --size=48m';
      const fio = `fio --name=v --filename="$loop" ${load} ${verify} --allow_file_create=0`;
      await onLoop(
        folder,
        `${fio} --rw=randwrite --fsync=50 && blkdiscard -o 1048576 -l 2097152 "$loop" && ` +
          'cmp -n 2097152 -i 1048576:0 "$loop" /dev/zero && ' +
          `${fio} --rw=randwrite --fsync=50`,
      );
    });

    it('refuses what is not whole sectors, or after the end', async () => {
      const folder = await baseFolder();
      await serve(folder);
      const image = join(folder, 'fuse/image');
      const dd = (...options: string[]): Promise<unknown> =>
        run('dd', ['if=/dev/zero', `of=${image}`, 'conv=notrunc', 'status=none', ...options]);
      await dd('bs=512', 'count=3', 'seek=4096');
      await expect(dd('bs=100', 'count=1')).rejects.toThrow(/Invalid argument/);
      await expect(dd('bs=1M', 'count=1', `seek=${DEVICE_BYTES / MIB}`)).rejects.toThrow(
        /No space/,
      );
      await expect(run('truncate', ['-s', '0', image])).rejects.toThrow(/Read-only/);
    });
  },
);

/** Until the third file of the load is there. */
async function waitForLoad(root: string): Promise<void> {
  const script = 'until [ -e "$1/load-2" ]; do sleep 0.05; done';
  await run('sh', ['-c', script, '-', root]);
}
