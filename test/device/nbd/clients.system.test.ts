import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, it, onTestFinished } from 'vitest';
import { flattenLayers } from '../../../src/convert/flatten.ts';
import { memoryDisk } from '../../../src/device/disk.ts';
import { ImageDisk } from '../../../src/device/image-disk.ts';
import { listenUnix } from '../../../src/device/sockets.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { defined } from '../../../src/util/assert.ts';
import { KIB, MIB } from '../../../src/util/bytes.ts';
import { codec, makeLayer, sampleBytes } from '../../kit/layers.ts';
import { describeWith, FIXTURES, needs } from '../../kit/requires.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { imageOf, MemoryReader } from '../kit/images.ts';
import { NbdClient } from '../kit/nbd-client.ts';
import { serveNbd } from '../kit/nbd-service.ts';

const run = promisify(execFile);

const SIZE = 64 * MIB;

/** Ranges of the lower layer, and of the upper one; the rest of the device reads as zeros. */
const LOWER = [
  { offset: 0, length: 3 * MIB },
  { offset: 10 * MIB, length: 5 * MIB + 512 },
  { offset: SIZE - 4096, length: 4096 },
];
const UPPER = { offset: 2 * MIB + 512, length: 2 * MIB };
const EXTENTS = [
  [4 * MIB + 512, false],
  [6 * MIB - 512, true],
  [5 * MIB + 512, false],
  [SIZE - 4096 - 15 * MIB - 512, true],
  [4096, false],
];

/** A device of these layers, bottom first, as an image has it, and as `xylem flatten` writes it. */
async function openImage(
  layers: readonly Uint8Array[],
  damage: (lower: Uint8Array) => void = () => {},
): Promise<{ disk: ImageDisk; flat: string }> {
  const folder = tempFolder();
  const paths = layers.map((bytes, i) => {
    const path = join(folder, `layer${i}`);
    writeFileSync(path, bytes);
    return path;
  });
  const flat = join(folder, 'flat');
  await flattenLayers({ codec }, paths, flat);
  damage(defined(layers[0], 'an image has a layer'));
  const reader = new MemoryReader();
  const { manifest } = imageOf(layers.map((bytes) => reader.add(bytes)));
  const disk = await ImageDisk.open({ reader, codec }, manifest);
  onTestFinished(() => disk.close());
  return { disk, flat };
}

/** A device of two layers. */
async function makeImage(damage?: (lower: Uint8Array) => void): ReturnType<typeof openImage> {
  const of = (range: { offset: number; length: number }, seed: number) => ({
    offset: range.offset,
    bytes: sampleBytes(range.length, seed),
  });
  const layers = [
    await makeLayer({ virtualSizeBytes: SIZE, ranges: LOWER.map((range, i) => of(range, i)) }),
    await makeLayer({ virtualSizeBytes: SIZE, ranges: [of(UPPER, 9)] }),
  ];
  return openImage(layers, damage);
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

describeWith('NbdServer, with libnbd,', ['nbdinfo', 'nbdcopy'].map(needs.program), () => {
  it('tells nbdinfo its devices, their sizes and what they can do', async () => {
    const { disk } = await makeImage();
    const { server, uri } = await serveNbd({ app: disk });
    server.export('db', memoryDisk(new Uint8Array(4096)), { description: 'registry.example/db:2' });
    const { stdout } = await run('nbdinfo', ['--json', '--list', uri()]);
    const listed = JSON.parse(stdout) as { exports: Record<string, unknown>[] };
    expect(listed).toMatchObject({ protocol: 'newstyle-fixed', TLS: false, structured: true });
    const found = listed.exports.map((each) => [each['export-name'], each['export-size']]);
    expect(found).toEqual([
      ['app', SIZE],
      ['db', 4096],
    ]);
    expect(listed.exports[1]?.['description']).toBe('registry.example/db:2');
    const one = JSON.parse((await run('nbdinfo', ['--json', uri('app')])).stdout) as typeof listed;
    expect(one.exports[0]).toMatchObject({
      'export-name': 'app',
      is_read_only: true,
      can_cache: true,
      can_df: true,
      can_fast_zero: false,
      can_flush: true,
      can_fua: false,
      can_multi_conn: true,
      can_trim: false,
      can_zero: false,
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 32 * MIB,
      contexts: ['base:allocation'],
    });
  });

  it('shows nbdinfo the holes of an image', async () => {
    const { disk } = await makeImage();
    const { uri } = await serveNbd({ '': disk });
    const { stdout } = await run('nbdinfo', ['--map', '--json', uri()]);
    const map = JSON.parse(stdout) as { length: number; type: number }[];
    expect(map.map(({ length, type }) => [length, type === 3])).toEqual(EXTENTS);
  });

  it('gives nbdcopy what flatten writes, and its holes', async () => {
    const { disk, flat } = await makeImage();
    const { uri } = await serveNbd({ '': disk });
    const copy = join(tempFolder(), 'copy');
    await run('nbdcopy', [uri(), copy]);
    await run('cmp', [flat, copy]);
    expect(statSync(copy).blocks * 512).toBeLessThan(16 * MIB);
    await run('nbdcopy', ['--synchronous', '--no-extents', uri(), copy]);
    await run('cmp', [flat, copy]);
  });

  it('has nbdcopy fail with EIO at a damaged block, and serves on', async () => {
    const { disk, flat } = await makeImage((layer) => layer.fill(0x55, 1 * MIB, 1 * MIB + 64));
    const { uri, path } = await serveNbd({ '': disk });
    const copy = join(tempFolder(), 'copy');
    await expect(run('nbdcopy', [uri(), copy])).rejects.toThrow('Input/output error');
    const client = await NbdClient.enter(path);
    await expect(client.read(0, 3 * MIB)).rejects.toThrow('error 5');
    const good = readFileSync(flat).subarray(10 * MIB, 15 * MIB);
    expect(Buffer.compare(await client.read(10 * MIB, 5 * MIB), good)).toBe(0);
    client.close();
  });
});

const QEMU = ['qemu-img', 'qemu-io'].map(needs.program);

describeWith('NbdServer, with QEMU,', QEMU, () => {
  it('tells qemu-img its size and its holes', async () => {
    const { disk } = await makeImage();
    const { uri } = await serveNbd({ '': disk });
    const info = await run('qemu-img', ['info', '--output=json', uri()]);
    expect(JSON.parse(info.stdout)).toMatchObject({ 'virtual-size': SIZE, format: 'raw' });
    const { stdout } = await run('qemu-img', ['map', '--output=json', '-f', 'raw', uri()]);
    const map = JSON.parse(stdout) as { length: number; zero: boolean }[];
    expect(map.map(({ length, zero }) => [length, zero])).toEqual(EXTENTS);
  });

  it('gives qemu-img what flatten writes', async () => {
    const { disk, flat } = await makeImage();
    const { uri } = await serveNbd({ '': disk });
    const raw = ['-f', 'raw', '-F', 'raw'];
    const { stdout } = await run('qemu-img', ['compare', ...raw, uri(), flat]);
    expect(stdout).toContain('Images are identical');
    const copy = join(tempFolder(), 'copy.qcow2');
    await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', uri(), copy]);
    await run('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', copy, flat]);
  });

  it.runIf(needs.fixtures() === undefined).each([
    ['of three layers', [0, 1, 2].map((i) => `layers/layer${i}.overlaybd.commit`)],
    ['of 64 GiB', ['official/hello-world.native.sha256-022231c3.commit']],
  ])('gives qemu-img an image that overlaybd made, %s', async (_, names) => {
    const layers = names.map((name) => new Uint8Array(readFileSync(join(FIXTURES, name))));
    const { disk, flat } = await openImage(layers);
    const { uri } = await serveNbd({ '': disk });
    const info = await run('qemu-img', ['info', '--output=json', uri()]);
    expect(JSON.parse(info.stdout)).toMatchObject({ 'virtual-size': statSync(flat).size });
    const raw = ['-f', 'raw', '-F', 'raw'];
    const { stdout } = await run('qemu-img', ['compare', ...raw, uri(), flat]);
    expect(stdout).toContain('Images are identical');
  });

  it('gives qemu-io the bytes that it expects, at any sector', async () => {
    const bytes = new Uint8Array(8 * MIB);
    for (let i = 0; i < 8; i++) bytes.fill(i + 1, i * MIB, (i + 1) * MIB);
    const { uri } = await serveNbd({ '': memoryDisk(bytes) });
    const commands = [
      'read -P 1 0 1M',
      'read -P 3 2097664 1000k',
      'read -P 8 8388096 512',
      'aio_read -P 4 3M 1M',
      'aio_read -P 5 4M 1M',
      'aio_flush',
    ].flatMap((command) => ['-c', command]);
    const { stdout } = await run('qemu-io', ['-r', '-f', 'raw', ...commands, uri()]);
    expect(stdout).not.toMatch(/fail|error/i);
    expect(stdout.match(/bytes at offset/g)?.length).toBe(5);
    const write = run('qemu-io', ['-f', 'raw', '-c', 'write 0 512', uri()]);
    await expect(write).rejects.toThrow('Permission denied');
  });

  it('gives qemu-io EIO where a block is damaged, and the bytes elsewhere', async () => {
    const { disk } = await makeImage((layer) => layer.fill(0x55, 1 * MIB, 1 * MIB + 64));
    const { uri } = await serveNbd({ '': disk });
    const commands = ['read 0 2M', 'read 10M 4M', 'read 0 64k'].flatMap((each) => ['-c', each]);
    const outcome = run('qemu-io', ['-r', '-f', 'raw', ...commands, uri()]);
    const { stdout } = await outcome.catch((error: unknown) => error as { stdout: string });
    expect(stdout).toContain('read failed: Input/output error');
    expect(stdout).toContain('bytes at offset 10485760');
    expect(stdout).toContain('bytes at offset 0');
  });
});

describeWith('NbdServer, with nbdfuse,', [needs.root, needs.fuse, needs.program('nbdfuse')], () => {
  it('is a file with the bytes of the device', async () => {
    const { disk, flat } = await makeImage();
    const { path } = await serveNbd({ '': disk });
    const folder = join(tempFolder(), 'mnt');
    mkdirSync(folder);
    const pidFile = join(tempFolder(), 'pid');
    const child = spawn('nbdfuse', ['-r', '-P', pidFile, folder, '--unix', path]);
    const closed = once(child, 'close');
    const clock = new SystemClock();
    while (!existsSync(pidFile)) await clock.sleep(10);
    const { stdout } = await run('sha256sum', [join(folder, 'nbd')]);
    expect(stdout.split(' ')[0]).toBe(sha256(readFileSync(flat)));
    await run('umount', [folder]);
    await closed;
  });
});

describeWith('NbdServer, with nbd-client,', [needs.program('nbd-client')], () => {
  it('lists its devices', async () => {
    const { path } = await serveNbd({
      app: memoryDisk(new Uint8Array(512)),
      '': memoryDisk(new Uint8Array(512)),
    });
    const { stdout } = await run('nbd-client', ['-l', '-unix', path]).catch(
      (error: unknown) => error as { stdout: string },
    );
    expect(stdout).toContain('app');
  });
});

describeWith('NbdServer, killed,', [], () => {
  it('is followed by another one on the same descriptor, which waiting clients reach', async () => {
    const folder = tempFolder();
    const [path, file] = [join(folder, 'nbd.sock'), join(folder, 'disk')];
    const bytes = sampleBytes(MIB, 5);
    writeFileSync(file, bytes);
    const fd = listenUnix(path);
    onTestFinished(() => closeSync(fd));
    const script = fileURLToPath(new URL('../kit/nbd-child.ts', import.meta.url));
    const start = () =>
      spawn(process.execPath, ['--no-warnings', script, file], {
        stdio: ['ignore', 'inherit', 'inherit', fd],
      });
    for (let life = 0; life < 3; life++) {
      const child = start();
      const closed = once(child, 'close');
      const client = await NbdClient.enter(path);
      expect(sha256(await client.read(0, MIB))).toBe(sha256(bytes));
      const waiting = client.read(64 * KIB, 512).catch(() => undefined);
      child.kill('SIGKILL');
      await closed;
      await client.closed();
      await waiting;
    }
  });
});
