import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it, onTestFinished } from 'vitest';
import { FuseServer } from '../../src/device/fuse/fuse-server.ts';
import { ImageDisk } from '../../src/device/image-disk.ts';
import { deviceMetrics } from '../../src/device/metrics.ts';
import { heldImage } from '../../src/device/store-reader/held-image.ts';
import { StoreShares } from '../../src/device/store-reader/store-shares.ts';
import type { BlobRef } from '../../src/image/block.ts';
import type { Logger } from '../../src/runtime/logger.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { silentMetrics, Tally } from '../../src/runtime/metrics.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import type { ZFileOptions } from '../../src/image/zfile-writer.ts';
import { codec, makeLayer, sampleBytes } from '../kit/layers.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { makeExt4Layer } from './kit/filesystem-layers.ts';
import { imageOf, MemoryReader, NO_TRACES, run, tracesOf } from './kit/images.ts';
import { storeBlob } from './kit/stored-image.ts';
import { openFilesBelow } from './store-reader/kit/reader-rig.ts';

const MIB = 1024 * 1024;

/** A layer of a device of 4 MiB, of which parts read as zeros. */
async function sampleLayer(
  options?: ZFileOptions,
): Promise<{ layer: Uint8Array; device: Uint8Array }> {
  const device = new Uint8Array(4 * MIB);
  const ranges = [
    { offset: 0, bytes: sampleBytes(MIB, 1) },
    { offset: MIB + 8192, bytes: sampleBytes(2 * MIB, 2) },
  ];
  for (const { offset, bytes } of ranges) device.set(bytes, offset);
  const init = { virtualSizeBytes: device.length, ranges };
  return { layer: await makeLayer(options === undefined ? init : { ...init, options }), device };
}

interface Served {
  readonly file: string;
  readonly server: FuseServer;
  readonly counts: Tally;
  /** Reads of blobs through the event loop. */
  readonly reads: readonly BlobRef[];
  unmount(): Promise<void>;
}

/** Serves a layer over FUSE until the test ends; the store in `root` holds some of its blocks. */
async function serve(
  layer: Uint8Array,
  root: string,
  init: { isHeld?: (index: number) => boolean; logger?: Logger; spoilLayout?: boolean } = {},
): Promise<Served> {
  const reader = new MemoryReader();
  const blob = reader.add(layer);
  await storeBlob(root, blob, layer, init.isHeld);
  const disk = await ImageDisk.open({ reader, codec }, imageOf([blob]).manifest);
  const reads: BlobRef[] = [];
  reader.gate = async (wanted) => void reads.push(wanted);
  const path = join(tempFolder(), 'fuse');
  mkdirSync(path);
  const plain = deviceMetrics(silentMetrics);
  const counts = new Tally(plain.readBytes, 'from');
  const [clock, metrics] = [new SystemClock(), { ...plain, readBytes: counts }];
  const { logger = silentLogger } = init;
  const server = new FuseServer({ disk, clock, logger, metrics }, { path });
  server.mount();
  const store = { dir: root, untrustedSigners: [], digestsOf: () => undefined };
  const image = heldImage(store, disk);
  const layout = init.spoilLayout === true ? { ...image.layout, bodies: [] } : image.layout;
  server.hold({
    image: { ...image, layout },
    shares: new StoreShares({ clock, readBytes: counts }),
  });
  const unmount = async (): Promise<void> => {
    await run('umount', ['-f', path]).catch(() => {});
    await server.ended;
    expect(tracesOf(path)).toEqual(NO_TRACES);
  };
  onTestFinished(unmount);
  return { file: join(path, 'image'), server, counts, reads, unmount };
}

/** All bytes of a file, read by another process without the page cache. */
async function readAll(file: string, blockBytes = 4096): Promise<Buffer> {
  const args = [`if=${file}`, `bs=${blockBytes}`, 'iflag=direct', 'status=none'];
  const { stdout } = await run('dd', args, { encoding: 'buffer', maxBuffer: 64 * MIB });
  return stdout;
}

const LAYERS: readonly [string, ZFileOptions | undefined][] = [
  ['LZ4 blocks', undefined],
  ['large ZSTD blocks', { blockSizeBytes: 32 * 1024, algorithm: 'zstd' }],
];

describeWith('FuseServer.hold()', [needs.root, needs.fuse, needs.program('mke2fs')], () => {
  it.each(LAYERS)('answers reads of %s from the files of the store alone', async (_, options) => {
    const { layer, device } = await sampleLayer(options);
    const root = tempFolder();
    const { file, reads, counts, unmount } = await serve(layer, root);
    expect(Buffer.compare(await readAll(file), device)).toBe(0);
    expect(Buffer.compare(await readAll(file, MIB), device)).toBe(0);
    expect(reads).toEqual([]);
    expect(openFilesBelow(root)).not.toEqual([]);
    await unmount();
    expect(openFilesBelow(root)).toEqual([]);
    const { store = 0, memory = 0 } = counts.sums();
    expect(store + memory).toBe(2 * device.length);
    expect(store).toBeGreaterThan(3 * MIB);
  });

  it('answers the rest through the event loop', async () => {
    const { layer, device } = await sampleLayer();
    const isHeld = (index: number): boolean => index % 2 === 0;
    const { file, reads, counts } = await serve(layer, tempFolder(), { isHeld });
    expect(Buffer.compare(await readAll(file), device)).toBe(0);
    expect(reads).not.toEqual([]);
    expect(counts.sums()['fetched']).toBeGreaterThan(0);
  });

  it('goes on through the event loop after a defect, which it logs', async () => {
    const { layer, device } = await sampleLayer();
    const errors: string[] = [];
    const logger = { ...silentLogger, error: (_: object, text: string) => void errors.push(text) };
    const init = { logger, spoilLayout: true };
    const { file, reads } = await serve(layer, tempFolder(), init);
    expect(Buffer.compare(await readAll(file), device)).toBe(0);
    expect(reads).not.toEqual([]);
    expect(errors).toEqual(['a mount does not read the store by itself any more']);
  });

  it('gives the right files while the event loop of the process stands still', async () => {
    const folder = tempFolder();
    const { layer, files } = await makeExt4Layer(folder);
    const [path, dir] = [join(folder, 'layer'), join(folder, 'mnt')];
    writeFileSync(path, layer);
    await storeBlob(join(folder, 'store'), new MemoryReader().add(layer), layer);
    const program = fileURLToPath(new URL('./kit/held-child.ts', import.meta.url));
    const args = [join(folder, 'state'), path, dir, join(folder, 'store')];
    const child = spawn(process.execPath, ['--no-warnings', program, ...args], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    onTestFinished(() => void child.kill('SIGKILL'));
    const said = (): Promise<string> => once(child.stdout, 'data').then(([text]) => String(text));
    expect(await said()).toBe('mounted\n');
    await run('diff', ['-r', '--exclude=lost+found', files, dir]);
    const freed = said();
    child.stdin.write('x');
    expect(await freed).toBe('free\n');
    child.kill('SIGTERM');
    expect(await once(child, 'exit')).toEqual([0, null]);
    expect(tracesOf(folder)).toEqual(NO_TRACES);
  });
});
