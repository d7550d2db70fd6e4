import { spawn } from 'node:child_process';
import { truncate, writeFile, open, rm } from 'node:fs/promises';
import { delimiter, dirname, join } from 'node:path';
import { viewOf } from '../../image/binary.ts';
import { ConvertError } from '../errors.ts';
import { failing, fileError } from '../files.ts';

/** Fixed, so that the same input gives the same image. */
const FILESYSTEM_UUID = '78796c65-6d00-4000-8000-000000000001';
const HASH_SEED = '78796c65-6d00-4000-8000-000000000002';

/** Times of the file system itself, in seconds since 1970; 0 would mean "now" to e2fsprogs. */
export const FILESYSTEM_TIME_SECONDS = 1;

/**
 * The features that a read-only image needs: no journal and no checksums of metadata. With
 * `uninit_bg` unused groups have no bitmaps, which saves 500 blocks. Each one is named, so that the
 * defaults of the host do not matter.
 */
const FEATURES = [
  'none,filetype,extent,dir_index,sparse_super,large_file,huge_file,flex_bg,ext_attr,dir_nlink',
  'extra_isize,64bit,uninit_bg',
].join(',');

/** Bytes of device for each inode, as mke2fs has it by default. */
const BYTES_PER_INODE = 16_384;

/** Replaces /etc/mke2fs.conf. */
const MKE2FS_CONF = ['ext4', 'floppy', 'small', 'big', 'huge'].reduce(
  (text, type) => `${text}${type} = {\n}\n`,
  '[defaults]\n[fs_types]\n',
);

/** Offset of the flags in the superblock, which is at 1,024. */
const SUPERBLOCK_FLAGS_OFFSET = 1024 + 0x160;
const FLAG_SIGNED_HASH = 1;

/** Most characters of the errors of mke2fs in an error text. */
const COMPLAINT_LENGTH_MAX = 500;

/** The environment in which e2fsprogs takes `FILESYSTEM_TIME_SECONDS` for now. */
export function fixedTimeEnvironment(): Record<string, string> {
  const time = String(FILESYSTEM_TIME_SECONDS);
  // Older e2fsprogs read the first variable, newer ones the second.
  return { E2FSPROGS_FAKE_TIME: time, SOURCE_DATE_EPOCH: time };
}

/**
 * Makes a sparse file with an empty ext4 file system. The same size gives the same bytes. Throws
 * ConvertError, or the signal's reason.
 */
export async function makeEmptyExt4(
  path: string,
  sizeBytes: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const config = join(dirname(path), 'mke2fs.conf');
  await failing(config, 'write', () => writeFile(config, MKE2FS_CONF));
  await failing(path, 'write', () => writeFile(path, '', { flag: 'wx' }));
  await failing(path, 'resize', () => truncate(path, sizeBytes));
  const inodeCount = Math.ceil(sizeBytes / BYTES_PER_INODE);
  await runMke2fs(
    [
      ...['-q', '-F', '-t', 'ext4', '-b', '4096', '-I', '256', '-m', '0', '-N', String(inodeCount)],
      ...['-E', `lazy_itable_init=1,nodiscard,root_owner=0:0,hash_seed=${HASH_SEED}`],
      ...['-O', FEATURES, '-U', FILESYSTEM_UUID, path],
    ],
    { config, signal },
  );
  await rm(config);
  await setSignedHash(path);
}

/** The hash of names depends on the sign of `char` where mke2fs ran, unless the superblock says. */
async function setSignedHash(path: string): Promise<void> {
  await failing(path, 'change', async () => {
    const file = await open(path, 'r+');
    try {
      const flags = new Uint8Array(4);
      viewOf(flags).setUint32(0, FLAG_SIGNED_HASH, true);
      await file.write(flags, 0, 4, SUPERBLOCK_FLAGS_OFFSET);
    } finally {
      await file.close();
    }
  });
}

async function runMke2fs(
  args: readonly string[],
  init: { config: string; signal: AbortSignal | undefined },
): Promise<void> {
  const { signal } = init;
  // The sbin folders, where mke2fs lies: the PATH of users often lacks them.
  const path = [process.env['PATH'] ?? '', '/usr/sbin', '/sbin'].join(delimiter);
  const child = spawn('mke2fs', args, {
    env: { PATH: path, LC_ALL: 'C', MKE2FS_CONFIG: init.config, ...fixedTimeEnvironment() },
    stdio: ['ignore', 'ignore', 'pipe'],
    ...(signal && { signal }),
  });
  let complaint = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaint = (complaint + text).slice(-COMPLAINT_LENGTH_MAX);
  });
  const failure = await new Promise<string | undefined>((resolve) => {
    child.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') resolve('it is not installed; install the package e2fsprogs');
      else if (error.name !== 'AbortError') resolve(`it does not start: ${error.message}`);
    });
    child.once('close', (code, killedBy) => {
      resolve(code === 0 ? undefined : `it ended with ${code ?? killedBy}: ${complaint.trim()}`);
    });
  });
  signal?.throwIfAborted();
  if (failure?.includes('No space left on device') === true) {
    throw fileError(
      dirname(init.config),
      'write to',
      Object.assign(new Error(), { code: 'ENOSPC' }),
    );
  }
  if (failure !== undefined) {
    throw new ConvertError(`mke2fs cannot make the file system: ${failure.replace(/\s+/g, ' ')}`, {
      code: 'tool',
      program: 'mke2fs',
    });
  }
}
