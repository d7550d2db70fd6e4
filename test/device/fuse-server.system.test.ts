import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { memoryDisk, type ReadOnlyDisk } from '../../src/device/disk.ts';
import { FuseServer } from '../../src/device/fuse/fuse-server.ts';
import { deviceMetrics } from '../../src/device/metrics.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { silentMetrics } from '../../src/runtime/metrics.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import { sampleBytes } from '../kit/layers.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { NO_TRACES, run, tracesOf } from './kit/images.ts';

const MIB = 1024 * 1024;

/** A disk whose reads go through `read`, as if nothing were in memory. */
function coldDisk(bytes: Uint8Array, gate: (offset: number) => Promise<void>): ReadOnlyDisk {
  const disk = memoryDisk(bytes);
  return {
    sizeBytes: bytes.length,
    readSync: () => false,
    read: async (target, offset) => {
      await gate(offset);
      disk.readSync(target, offset);
    },
  };
}

/** Serves a disk until the test ends; gives the path of its file. */
function serve(disk: ReadOnlyDisk): { file: string; server: FuseServer; path: string } {
  const path = join(tempFolder(), 'fuse');
  mkdirSync(path);
  const metrics = deviceMetrics(silentMetrics);
  const server = new FuseServer(
    { disk, clock: new SystemClock(), logger: silentLogger, metrics },
    { path },
  );
  server.mount();
  onTestFinished(async () => {
    await run('umount', ['-f', path]).catch(() => {});
    await server.ended;
    expect(tracesOf(path)).toEqual(NO_TRACES);
  });
  return { file: join(path, 'image'), server, path };
}

/** Bytes [offset, offset + length) of a file, read by another process without the page cache. */
async function read(file: string, offset: number, length: number): Promise<Buffer> {
  const options = ['bs=4096', `skip=${offset / 4096}`, `count=${length / 4096}`];
  const result = await run('dd', [`if=${file}`, ...options, 'iflag=direct', 'status=none'], {
    encoding: 'buffer',
    maxBuffer: 64 * MIB,
  });
  return result.stdout;
}

describeWith('FuseServer', [needs.root, needs.fuse, needs.program('fio')], () => {
  it('serves one file of the size of the disk, with its bytes, read-only', async () => {
    const bytes = sampleBytes(3 * MIB, 3);
    const { file, path } = serve(memoryDisk(bytes));
    const { stdout } = await run('stat', ['-c', '%s %A %b', file]);
    expect(stdout).toBe('3145728 -r-------- 6144\n');
    expect((await run('ls', ['-a', path])).stdout).toBe('.\n..\nimage\n');
    expect(Buffer.compare(await read(file, 0, 3 * MIB), bytes)).toBe(0);
    await expect(run('sh', ['-c', `echo x > ${file}`])).rejects.toThrow(/Read-only/);
    await expect(run('touch', [join(path, 'other')])).rejects.toThrow(/Read-only/);
  });

  it('answers many concurrent readers with the right bytes, from memory or fetched', async () => {
    const bytes = sampleBytes(8 * MIB, 4);
    const warm = memoryDisk(bytes);
    const cold = coldDisk(bytes, () => Promise.resolve());
    const isCold = (offset: number): boolean => Math.floor(offset / 65536) % 2 === 0;
    const { file } = serve({
      sizeBytes: bytes.length,
      readSync: (target, offset) => !isCold(offset) && warm.readSync(target, offset),
      read: (target, offset) => cold.read(target, offset),
    });
    const readers = Array.from({ length: 8 }, async (_, i) => {
      const offset = i * 512 * 1024;
      const got = await read(file, offset, 4 * MIB);
      return Buffer.compare(got, bytes.subarray(offset, offset + 4 * MIB));
    });
    expect(await Promise.all(readers)).toEqual(Array(8).fill(0));
  });

  it('gives fio the checksummed blocks that it wrote, at depth, cached or fetched', async () => {
    const source = join(tempFolder(), 'source');
    const verify = [
      '--name=v',
      '--bs=4k',
      '--size=16m',
      '--verify=crc32c',
      '--randseed=1',
      '--verify_state_save=0',
    ];
    await run('fio', [...verify, `--filename=${source}`, '--rw=write', '--do_verify=0']);
    const bytes = readFileSync(source);
    const warm = memoryDisk(bytes);
    let reads = 0;
    const { file } = serve({
      ...warm,
      readSync: (...at) => ++reads % 3 !== 0 && warm.readSync(...at),
    });
    const load = [
      '--rw=randread',
      '--ioengine=libaio',
      '--direct=1',
      '--iodepth=32',
      '--numjobs=4',
    ];
    await run('fio', [...verify, ...load, `--filename=${file}`, '--readonly', '--verify_fatal=1']);
    expect(reads).toBeGreaterThanOrEqual(4 * 4096);
  });

  it('gives EIO for a range that cannot be read, and goes on', async () => {
    const bytes = sampleBytes(4 * MIB, 5);
    const { file } = serve(
      coldDisk(bytes, (offset) =>
        offset === 2 * MIB ? Promise.reject(new Error('deadline over')) : Promise.resolve(),
      ),
    );
    await expect(read(file, 2 * MIB, 4096)).rejects.toThrow(/Input\/output error/);
    const after = await read(file, MIB, MIB);
    expect(Buffer.compare(after, bytes.subarray(MIB, 2 * MIB))).toBe(0);
  });

  it('answers a fast read while a slow one waits', async () => {
    const bytes = sampleBytes(4 * MIB, 6);
    const { promise, resolve } = Promise.withResolvers<void>();
    const begun = Promise.withResolvers<void>();
    const { file } = serve(
      coldDisk(bytes, (offset) => {
        if (offset !== MIB) return Promise.resolve();
        begun.resolve();
        return promise;
      }),
    );
    const slow = read(file, MIB, 4096);
    await begun.promise;
    const fast = await read(file, 3 * MIB, 4096);
    expect(Buffer.compare(fast, bytes.subarray(3 * MIB, 3 * MIB + 4096))).toBe(0);
    resolve();
    expect(Buffer.compare(await slow, bytes.subarray(MIB, MIB + 4096))).toBe(0);
  });

  it('fails waiting reads when it is unmounted by force', async () => {
    const begun = Promise.withResolvers<void>();
    const { file, path, server } = serve(
      coldDisk(sampleBytes(MIB, 8), () => {
        begun.resolve();
        return new Promise(() => {});
      }),
    );
    const slow = read(file, 0, 4096);
    const failure = expect(slow).rejects.toThrow();
    await begun.promise;
    await run('umount', ['-f', path]).catch(() => {}); // Busy: but its reads fail.
    await failure;
    await run('umount', [path]).catch(() => {});
    await server.ended;
  });
});
