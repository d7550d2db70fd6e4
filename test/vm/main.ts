/**
 * `npm run test:vm`: the NBD devices of a real kernel, in an emulated machine, since few hosts for
 * tests have the driver. A file system on a device is read and checksummed while its server is
 * killed and restarted. Exits with 1 when that fails; says why when it cannot run.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MIB } from '../../src/util/bytes.ts';
import { sampleBytes } from '../kit/layers.ts';
import { needs } from '../kit/requires.ts';
import { cloudKernel, makeInitramfs, makeRoot, runMachine } from './machine.ts';

const TIMEOUT_MS = 1_800_000;
const FILES = 12;

const PROGRAMS = [
  'qemu-system-x86_64',
  'busybox',
  'mke2fs',
  'mkfs.erofs',
  'apt-get',
  'dpkg',
  'ldd',
];

/** A file system of random files, and the sums of these as a file. */
function makeFileSystem(folder: string): { fs: string; sums: string } {
  const files = join(folder, 'files');
  mkdirSync(files);
  const entries = Array.from({ length: FILES }, (_, i) => {
    const bytes = sampleBytes(MIB + i * 12_345, i);
    writeFileSync(join(files, `file${i}`), bytes);
    return [`file${i}`, createHash('sha256').update(bytes).digest('hex')];
  });
  const [fs, sums] = [join(folder, 'fs.ext4'), join(folder, 'sums.json')];
  execFileSync('/usr/sbin/mke2fs', ['-q', '-t', 'ext4', '-d', files, fs, '32M']);
  writeFileSync(sums, JSON.stringify(Object.fromEntries(entries)));
  return { fs, sums };
}

async function main(): Promise<void> {
  const missing = PROGRAMS.map((name) => needs.program(name)()).filter(
    (each) => each !== undefined,
  );
  if (missing.length > 0) {
    const packages = 'qemu-system-x86 busybox-static e2fsprogs erofs-utils';
    console.log(`skipped: ${missing.join(', ')} (Debian: ${packages})`);
    return;
  }
  const startMs = performance.now();
  const folder = mkdtempSync(join(tmpdir(), 'xylem-vm-'));
  try {
    const kernel = cloudKernel();
    const { fs, sums } = makeFileSystem(folder);
    const initramfs = makeInitramfs(folder, kernel);
    const disk = makeRoot(folder, { 'fs.ext4': fs, 'sums.json': sums });
    let result: string | undefined;
    let isPassed = false;
    const onLine = (line: string): void => {
      if (line.includes('tests ended with 0')) isPassed = true;
      if (line.startsWith('result ')) result = line.slice('result '.length).trimEnd();
      console.log(`  ${line.trimEnd()}`);
    };
    await runMachine(kernel, { initramfs, disk }, { timeoutMs: TIMEOUT_MS, onLine });
    const seconds = ((performance.now() - startMs) / 1000).toFixed(0);
    if (result === undefined || !isPassed) {
      console.log(`failed after ${seconds} s`);
      process.exitCode = 1;
    } else console.log(`passed in ${seconds} s: ${result}`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

await main();
