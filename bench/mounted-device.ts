import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { ReadOnlyDisk } from '../src/device/disk.ts';
import { ImageDisk } from '../src/device/image-disk.ts';
import { deviceMetrics } from '../src/device/metrics.ts';
import { NbdServer } from '../src/device/nbd/nbd-server.ts';
import { heldImage } from '../src/device/store-reader/held-image.ts';
import { StoreShares } from '../src/device/store-reader/store-shares.ts';
import { ThreadImage } from '../src/device/store-reader/thread-image.ts';
import { silentLogger } from '../src/runtime/logger.ts';
import { silentMetrics } from '../src/runtime/metrics.ts';
import { SystemClock } from '../src/runtime/node/clock.ts';
import { NodeCodec } from '../src/runtime/node/codec.ts';
import { MIB } from '../src/util/bytes.ts';
import type { AtEnd } from '../test/kit/temp-folder.ts';
import { CASES, fio, rowOf } from './device-fio.ts';
import type { BenchImage } from './device-image.ts';
import type { BenchRow } from './rows.ts';

const run = promisify(execFile);
const clock = new SystemClock();
const metrics = deviceMetrics(silentMetrics);

/** Bytes of random reads out of a cold cache: few, so that most meet a block for the first time. */
const COLD_RANDOM_BYTES = 4 * MIB;

/** A filesystem with the file of the image, and the files of this host that its bytes are in. */
interface Mounted {
  readonly how: string;
  readonly dir: string;
  readonly sources: readonly string[];
}

/**
 * Measures fio on the file of an image that is mounted in three ways: as devices are, whose mount
 * is `dir`; by NBD through nbdfuse and a loop device; and as the raw ext4 on a loop device. Warm:
 * the files below are in the page cache. Cold: they are not; what a device reads is in its store.
 */
export async function* measureMounts(
  init: { readonly image: BenchImage; readonly dir: string; readonly folder: string },
  smoke: boolean,
  atEnd: AtEnd,
): AsyncGenerator<BenchRow> {
  const { image, dir, folder } = init;
  mkdirSync(folder);
  const stored = filesIn(image.fullStore);
  const mounts: Mounted[] = [{ how: 'FUSE and loop', dir, sources: stored }];
  if (existsSync('/usr/bin/nbdfuse')) {
    const byNbd = await mountNbdfuse(join(folder, 'nbdfuse'), image, atEnd);
    mounts.push({ how: 'nbdfuse', dir: byNbd, sources: stored });
  }
  const raw = await mountRaw(join(folder, 'raw'), image.raw, atEnd);
  mounts.push({ how: 'raw ext4', dir: raw, sources: [image.raw] });
  for (const one of CASES) {
    const isRandom = one.unit === 'reads/s';
    for (const cache of ['warm', 'cold'] as const) {
      for (const { how, dir: mount, sources } of mounts) {
        const file = join(mount, 'data');
        await (cache === 'cold' ? forget(sources) : remember(sources));
        const bytes = smoke || isRandom ? COLD_RANDOM_BYTES : image.bytes.byteLength;
        const length = smoke || cache === 'cold' ? { bytes } : 'seconds';
        yield rowOf(one, `mounted, ${cache}, ${how}`, await fio(one, file, length));
      }
    }
  }
}

/** Takes files out of the page cache. */
async function forget(paths: readonly string[]): Promise<void> {
  for (const path of paths) await run('dd', [`if=${path}`, 'iflag=nocache', 'count=0']);
}

/** Brings them there. */
async function remember(paths: readonly string[]): Promise<void> {
  for (const path of paths) await run('dd', [`if=${path}`, 'of=/dev/null', 'bs=1M']);
}

function filesIn(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

async function mountNbdfuse(folder: string, image: BenchImage, atEnd: AtEnd): Promise<string> {
  mkdirSync(folder);
  const server = new NbdServer({ clock, logger: silentLogger, metrics });
  server.export('', await storedDisk(image, atEnd));
  const [socket, file, pidFile] = ['socket', 'file', 'pid'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  await server.listen(socket);
  atEnd(() => server.close());
  writeFileSync(file, '');
  const child = spawn('nbdfuse', ['-r', '-P', pidFile, file, '--unix', socket], {
    stdio: 'ignore',
  });
  const closed = once(child, 'close');
  atEnd(async () => {
    await run('umount', ['-l', file]);
    await closed;
  });
  while (!existsSync(pidFile)) await clock.sleep(10);
  return mountLoop(folder, file, { isDirect: true }, atEnd);
}

/** The device of an image, as a mount's thread reads it from a store that has all of it. */
async function storedDisk(image: BenchImage, atEnd: AtEnd): Promise<ReadOnlyDisk> {
  const codec = new NodeCodec();
  const disk = await ImageDisk.open({ reader: image.fetched, codec }, image.manifest);
  const share = new StoreShares({ clock, readBytes: metrics.readBytes }).add();
  atEnd(() => share.end());
  const store = { dir: image.fullStore, untrustedSigners: [], digestsOf: () => undefined };
  const order = { image: { ...heldImage(store, disk), shared: share.files }, counts: share.counts };
  const held = new ThreadImage(order, {
    onGaveUp: (reason) => {
      throw new Error(reason);
    },
  });
  return {
    sizeBytes: disk.sizeBytes,
    readSync: (target, offset) => held.readInto(target, offset),
    read: async (target, offset) => {
      if (!held.readInto(target, offset)) await disk.read(target, offset);
    },
  };
}

async function mountRaw(folder: string, file: string, atEnd: AtEnd): Promise<string> {
  accessSync(file);
  mkdirSync(folder);
  return mountLoop(folder, file, { isDirect: false }, atEnd);
}

/** Mounts the ext4 in a file over a loop device, which reads past the page cache or through it. */
async function mountLoop(
  folder: string,
  file: string,
  { isDirect }: { isDirect: boolean },
  atEnd: AtEnd,
): Promise<string> {
  const dir = join(folder, 'mnt');
  mkdirSync(dir);
  const options = ['--find', '--show', '--read-only', `--direct-io=${isDirect ? 'on' : 'off'}`];
  const { stdout } = await run('losetup', [...options, file]);
  const device = stdout.trim();
  atEnd(async () => void (await run('losetup', ['--detach', device])));
  await run('mount', ['-o', 'ro,noload', device, dir]);
  atEnd(async () => void (await run('umount', [dir])));
  return dir;
}
