/**
 * In the machine: mounts a file system on a device of the kernel, reads and checksums all of it
 * again and again, and kills and restarts the server meanwhile. `guest.ts FILE SUMS` prints one
 * line of JSON at the end; a defect ends it with a stack.
 */
import { spawn, execFileSync, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { detachKernelNbd } from '../../src/device/nbd/kernel.ts';
import { kernelNbdPath, kernelNbds } from '../../src/device/nbd-devices.ts';
import { assert, defined } from '../../src/util/assert.ts';

const KILLS = 2;
const AWAY_MS = 1_000;
const DEAD_SECONDS = 30;
const SHORT_DEAD_SECONDS = 2;
const MOUNT = '/tmp/mnt';

const [file = '', sumsFile = ''] = process.argv.slice(2);
const sums = JSON.parse(readFileSync(sumsFile, 'utf8')) as Record<string, string>;

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const busybox = (...args: string[]): Buffer => execFileSync('/bin/busybox', args);

interface Server {
  readonly child: ChildProcess;
  readonly index: number;
}

async function serve(name: string, deadSeconds: number, index?: number): Promise<Server> {
  const script = join(import.meta.dirname, 'serve.ts');
  const args = ['--no-warnings', script, file, name, `${deadSeconds}`];
  const child = spawn(process.execPath, index === undefined ? args : [...args, `${index}`], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const output = defined(child.stdout, 'it is a pipe');
  const [line] = (await once(createInterface({ input: output }), 'line')) as [string];
  return { child, index: Number(line) };
}

async function kill({ child }: Server): Promise<void> {
  const closed = once(child, 'close');
  child.kill('SIGKILL');
  await closed;
}

/** Reads every file over and over until `enough`, from the device each time. */
class Reader {
  rounds = 0;
  files = 0;
  longestMs = 0;
  #isEnough = false;

  async run(): Promise<void> {
    while (!this.#isEnough) {
      writeFileSync('/proc/sys/vm/drop_caches', '3');
      for (const [name, sum] of Object.entries(sums)) {
        const startMs = performance.now();
        const bytes = await readFile(join(MOUNT, name));
        this.longestMs = Math.max(this.longestMs, performance.now() - startMs);
        const found = createHash('sha256').update(bytes).digest('hex');
        assert(found === sum, `${name} has the bytes of the image`);
        this.files++;
      }
      this.rounds++;
    }
  }

  enough(): void {
    this.#isEnough = true;
  }
}

/** The server is killed and restarted under a reader, which notices nothing but time. */
async function outlives(): Promise<{
  rounds: number;
  longestMs: number;
  resumedMs: readonly number[];
}> {
  const resumedMs: number[] = [];
  let server = await serve('first', DEAD_SECONDS);
  assert(
    kernelNbds().some(({ identifier }) => identifier === 'first'),
    'sysfs has the identifier',
  );
  mkdirSync(MOUNT, { recursive: true });
  busybox('mount', '-t', 'ext4', '-o', 'ro', kernelNbdPath(server), MOUNT);
  const reader = new Reader();
  const reading = reader.run();
  for (let i = 0; i < KILLS; i++) {
    const before = reader.rounds;
    while (reader.rounds === before) await sleep(10);
    await sleep(50); // Into the next round.
    await kill(server);
    await sleep(AWAY_MS);
    server = await serve('first', DEAD_SECONDS, server.index);
    const startMs = performance.now();
    const { files } = reader;
    while (reader.files === files) await sleep(10);
    resumedMs.push(Math.round(performance.now() - startMs));
  }
  const before = reader.rounds;
  while (reader.rounds < before + 2) await sleep(10);
  reader.enough();
  await reading;
  busybox('umount', MOUNT);
  detachKernelNbd(server);
  await kill(server);
  const { rounds, longestMs } = reader;
  return { rounds, longestMs: Math.round(longestMs), resumedMs };
}

/** Reads of a device whose server does not come back fail by the deadline. */
async function fails(): Promise<{ failedAfterMs: number }> {
  const server = await serve('second', SHORT_DEAD_SECONDS);
  await kill(server);
  const startMs = performance.now();
  const failure: unknown = await readFile(kernelNbdPath(server)).catch((error: unknown) => error);
  assert((failure as NodeJS.ErrnoException).code === 'EIO', 'a read without a server gives EIO');
  const failedAfterMs = Math.round(performance.now() - startMs);
  detachKernelNbd(server);
  assert(kernelNbds().length === 0, 'nothing is attached in the end');
  return { failedAfterMs };
}

console.log(`result ${JSON.stringify({ ...(await outlives()), ...(await fails()) })}`);
