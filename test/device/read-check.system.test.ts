import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { blobPath, readTag } from '../../src/convert/oci-layout.ts';
import { DeviceService } from '../../src/device/device-service.ts';
import { ImageDisk } from '../../src/device/image-disk.ts';
import { blockLayers, type DeviceImage } from '../../src/image/manifest.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { silentMetrics } from '../../src/runtime/metrics.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import { HARD_FILES, tarOfFolder } from '../convert/kit/hard-files.ts';
import { factsOfFolder, factsOfMount, python } from '../kit/file-trees.ts';
import { codec, makeLayer } from '../kit/layers.ts';
import { putLayout } from '../kit/oci-layout.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { END, joined, member } from '../kit/tar-encoder.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { imageOf, MemoryReader, run } from './kit/images.ts';
import { serveNbd } from './kit/nbd-service.ts';
import { readCheck, type ReadCheck } from './kit/read-check.ts';
import { storeBlob } from './kit/stored-image.ts';

const BIN = new URL('../../bin/xylem.js', import.meta.url).pathname;
const SEED = Number(process.env['XYLEM_TEST_SEED'] ?? Date.now() % 1_000_000);

/** Files that end at, before and after the edges of sectors, pages, blocks and read-aheads. */
const SIZES = String.raw`
os.makedirs('sizes')
for edge in [1, 512, 4096, 16384, 65536, 131072, 262144, 1048576]:
  for size in [edge - 1, edge, edge + 1]:
    with open('sizes/%d' % size, 'wb') as f: f.write(os.urandom(size))
with open('sizes/holes', 'wb') as f:
  for at in [0, 4095, 300001, 1 << 20, 3 << 20]: f.seek(at); f.write(os.urandom(5000))
  f.truncate((4 << 20) + 17)
open('patched', 'wb').write(os.urandom(2_000_000))
`;

/** What the upper layer changes; `gone/a` is removed by a whiteout. */
const CHANGES = String.raw`
import os
os.remove('gone/a')
with open('patched', 'r+b') as f: f.seek(777_777); f.write(os.urandom(100_001))
open('new', 'wb').write(os.urandom(123_456))
`;

/** The files of an image, and its layers as tars. */
function makeTree(folder: string): { files: string; layers: readonly Uint8Array[] } {
  const files = join(folder, 'files');
  mkdirSync(files);
  python(files, `${HARD_FILES}\n${SIZES}`);
  const lower = tarOfFolder(files);
  python(files, CHANGES);
  const changed = tarOfFolder(files, ['--no-recursion', 'patched', 'new', 'gone']);
  const upper = joined(changed.subarray(0, -1024), member({ path: 'gone/.wh.a' }), END);
  return { files, layers: [lower, upper] };
}

interface Made {
  readonly folder: string;
  readonly files: string;
  readonly image: DeviceImage;
  readonly reader: MemoryReader;
  /** Holds every second block of the image. */
  readonly storeDir: string;
}

/** An ext4 image that `xylem convert` makes of the tree. */
async function makeExt4(): Promise<Made> {
  const folder = tempFolder();
  const { files, layers } = makeTree(folder);
  await putLayout(join(folder, 'layout'), 'plain', layers);
  const directory = join(folder, 'block');
  await run(process.execPath, [
    ...[BIN, 'convert', `oci:${join(folder, 'layout')}:plain`],
    `oci:${directory}:1`,
  ]);
  const manifest = await readTag({ directory, tag: '1' });
  const blobs = blockLayers(manifest).map(({ digest }) =>
    readFileSync(blobPath(directory, digest)),
  );
  expect(blobs.length).toBeGreaterThan(1);
  const { digest } = manifest.config;
  return { ...(await stored(folder, blobs)), files, image: { reference: 'app', digest, manifest } };
}

/** An EROFS image of one layer. */
async function makeErofs(): Promise<Made> {
  const folder = tempFolder();
  const { files } = makeTree(folder);
  // mkfs.erofs 1.5 fails on a path that is longer than a name.
  rmSync(join(files, 'd'.repeat(200)), { recursive: true });
  const device = join(folder, 'device');
  await run('mkfs.erofs', ['-x1', device, files]);
  const bytes = readFileSync(device);
  const layer = await makeLayer({ virtualSizeBytes: bytes.length, ranges: [{ offset: 0, bytes }] });
  const made = await stored(folder, [layer]);
  return { ...made, files, image: imageOf([made.reader.add(layer)]) };
}

async function stored(
  folder: string,
  blobs: readonly Uint8Array[],
): Promise<Pick<Made, 'folder' | 'reader' | 'storeDir'>> {
  const reader = new MemoryReader();
  const storeDir = join(folder, 'store');
  for (const bytes of blobs) {
    await storeBlob(storeDir, reader.add(bytes), bytes, (index) => index % 2 === 0);
  }
  return { folder, reader, storeDir };
}

/** Mounts it as containers get it: half of it is in the store, half is fetched. */
async function mountService({ folder, image, reader, storeDir }: Made): Promise<string> {
  const store = { dir: storeDir, untrustedSigners: [], digestsOf: () => undefined };
  const service = new DeviceService(
    { reader, codec, clock: new SystemClock(), logger: silentLogger, metrics: silentMetrics },
    { stateDir: join(folder, 'state'), mountFolders: [folder], store },
  );
  onTestFinished(() => service.stop());
  await service.start();
  return (await service.mount(image, join(folder, 'mnt'))).dir;
}

/** Mounts it by the NBD server, through nbdfuse and a loop device. */
async function mountNbdfuse({ folder, image, reader }: Made): Promise<string> {
  const disk = await ImageDisk.open({ reader, codec }, image.manifest);
  const { path } = await serveNbd({ '': disk });
  const [file, dir, pidFile] = ['nbd', 'mnt', 'pid'].map((name) => join(folder, name));
  writeFileSync(file ?? '', '');
  mkdirSync(dir ?? '');
  const args = ['-r', '-P', pidFile ?? '', file ?? '', '--unix', path];
  const child = spawn('nbdfuse', args, { stdio: 'ignore' });
  const closed = once(child, 'close');
  onTestFinished(async () => {
    await run('umount', [dir ?? '']).catch(() => {});
    await run('umount', ['-l', file ?? '']).catch(() => {});
    await closed;
  });
  const clock = new SystemClock();
  while (!existsSync(pidFile ?? '')) await clock.sleep(10);
  await run('mount', ['-o', 'loop,ro,noload', file ?? '', dir ?? '']);
  return dir ?? '';
}

/** Compares all that there is of a mounted tree. */
async function compare(files: string, mounted: string): Promise<ReadCheck> {
  const { '/lost+found': _, ...found } = await factsOfMount(mounted);
  const wanted = factsOfFolder(files);
  const root = { '': { ...wanted[''], mtime: found['']?.mtime } };
  expect(found).toEqual({ ...wanted, ...root });
  const checked = await readCheck(files, mounted, SEED);
  expect(checked.files).toBeGreaterThan(30);
  expect(checked.reads).toBeGreaterThan(5_000);
  return checked;
}

const has = (program: string): boolean => needs.program(program)() === undefined;

const NEEDS = [needs.root, needs.fuse, ...['mke2fs', 'python3', 'tar'].map(needs.program)];

describeWith('a mounted image reads as its original, in every way,', NEEDS, () => {
  it(`ext4 over FUSE and loop (seed ${SEED})`, async () => {
    const made = await makeExt4();
    const { direct, holes } = await compare(made.files, await mountService(made));
    expect(direct).toBeGreaterThan(500);
    // The holes of files are holes in the image.
    expect(holes).toBeGreaterThan(10_000_000);
  });

  it.runIf(has('nbdfuse'))(`ext4 over nbdfuse (seed ${SEED})`, async () => {
    const made = await makeExt4();
    await compare(made.files, await mountNbdfuse(made));
  });

  it.runIf(has('mkfs.erofs'))(`EROFS over FUSE (seed ${SEED})`, async () => {
    const made = await makeErofs();
    await compare(made.files, await mountService(made));
  });
});
