import { spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { delimiter, dirname, join } from 'node:path';
import { ceilTo } from '../image/binary.ts';
import { IMAGE_SIZE_BYTES_MAX } from '../image/lsmt-header.ts';
import { ConvertError } from './errors.ts';
import { normalizeTimes } from './ext4-times.ts';
import { withFile } from './files.ts';
import { measureTree, type TreeSize } from './tree-size.ts';

const MIB = 1024 * 1024;

/** Fixed, so that the same directory gives the same image. */
const FILESYSTEM_UUID = '78796c65-6d00-4000-8000-000000000001';
const HASH_SEED = '78796c65-6d00-4000-8000-000000000002';

/**
 * Times of the file system itself, in seconds since 1970; 0 would mean "now" to mke2fs. Files keep
 * their own times.
 */
const FILESYSTEM_TIME_SECONDS = 1;

/**
 * The features that a read-only image needs: no journal, and no checksums over inodes, whose times
 * `normalizeTimes()` changes. Each one is named, so that the defaults of the host do not matter.
 */
const FEATURES = [
  'none,filetype,extent,dir_index,sparse_super,large_file,huge_file,flex_bg,ext_attr,dir_nlink',
  'extra_isize,64bit',
].join(',');

/** Replaces /etc/mke2fs.conf. */
const MKE2FS_CONF = ['ext4', 'floppy', 'small', 'big', 'huge'].reduce(
  (text, type) => `${text}${type} = {\n}\n`,
  '[defaults]\n[fs_types]\n',
);

/** Inodes that ext4 reserves, plus a few free ones. */
const SPARE_INODES = 32;

/** Most characters of the errors of mke2fs in an error text. */
const COMPLAINT_LENGTH_MAX = 500;

/**
 * Makes a file with an ext4 file system that holds the directory's content, by `mke2fs -d`. Run by
 * root, it keeps the owners of files. The same directory gives the same bytes. Throws ConvertError,
 * or the signal's reason.
 */
export async function makeExt4(
  directory: string,
  diskPath: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const size = await measureTree(directory, signal);
  const inodeCount = Math.ceil(size.inodeCount * 1.02) + SPARE_INODES;
  const diskBytes = diskSize(size, inodeCount);
  const config = join(dirname(diskPath), 'mke2fs.conf');
  await writeFile(config, MKE2FS_CONF);
  const extended = `lazy_itable_init=0,nodiscard,root_owner=0:0,hash_seed=${HASH_SEED}`;
  await runMke2fs(
    [
      ...['-q', '-F', '-t', 'ext4', '-b', '4096', '-I', '256', '-m', '0', '-N', String(inodeCount)],
      ...['-O', FEATURES, '-E', extended, '-U', FILESYSTEM_UUID, '-d', directory],
      ...[diskPath, `${diskBytes / 1024}k`],
    ],
    { config, signal },
  );
  await withFile(diskPath, 'change', (disk) => normalizeTimes(disk));
}

/**
 * Data, inode tables, and room for extents, bitmaps and descriptors; free blocks cost nothing in
 * the layer.
 */
function diskSize(size: TreeSize, inodeCount: number): number {
  const bytes = ceilTo(size.dataBytes * 1.05 + inodeCount * 320 + 16 * MIB, MIB);
  if (bytes > IMAGE_SIZE_BYTES_MAX) {
    throw new ConvertError(
      `the directory needs a disk of ${bytes} bytes; the limit is ${IMAGE_SIZE_BYTES_MAX}`,
      { code: 'too-large', value: bytes },
    );
  }
  return bytes;
}

/** Adds the sbin folders, where mke2fs lies: the PATH of users often lacks them. */
function toolEnvironment(config: string): NodeJS.ProcessEnv {
  const path = [process.env['PATH'] ?? '', '/usr/sbin', '/sbin'].join(delimiter);
  const time = String(FILESYSTEM_TIME_SECONDS);
  return {
    PATH: path,
    LC_ALL: 'C',
    MKE2FS_CONFIG: config,
    // Older e2fsprogs read the first variable, newer ones the second.
    E2FSPROGS_FAKE_TIME: time,
    SOURCE_DATE_EPOCH: time,
  };
}

async function runMke2fs(
  args: readonly string[],
  init: { config: string; signal: AbortSignal | undefined },
): Promise<void> {
  const { signal } = init;
  const child = spawn('mke2fs', args, {
    env: toolEnvironment(init.config),
    stdio: ['ignore', 'ignore', 'pipe'],
    ...(signal && { signal }),
  });
  let complaint = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaint = (complaint + text).slice(-COMPLAINT_LENGTH_MAX);
  });
  const failure = await new Promise<string | undefined>((resolve, reject) => {
    child.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') resolve('it is not installed; install the package e2fsprogs');
      else if (error.name !== 'AbortError') reject(error);
    });
    child.once('close', (code, killedBy) => {
      resolve(code === 0 ? undefined : `it ended with ${code ?? killedBy}: ${complaint.trim()}`);
    });
  });
  signal?.throwIfAborted();
  if (failure !== undefined) {
    throw new ConvertError(`mke2fs cannot make the file system: ${failure.replace(/\s+/g, ' ')}`, {
      code: 'tool',
      program: 'mke2fs',
    });
  }
}
