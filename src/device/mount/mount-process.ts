import { spawn, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Clock } from '../../runtime/clock.ts';
import { moduleBeside } from '../../runtime/node/module-beside.ts';
import { defined } from '../../util/assert.ts';
import { DeviceError } from '../errors.ts';
import type { MountRequest, MountResult } from './mount-steps.ts';

/** Most output of the helper that is kept, in bytes; a result has some hundred. */
const OUTPUT_BYTES_MAX = 64 * 1024;

/**
 * Runs one request in a helper process, to mount with the open target as its `TARGET_FD`, and kills
 * that when it takes longer than `timeoutMs`. Throws DeviceError `timeout`, or `failed` when the
 * helper itself broke; everything else is in the result.
 */
export async function runInHelper(
  components: { clock: Clock },
  request: MountRequest,
  { timeoutMs, targetFd }: { readonly timeoutMs: number; readonly targetFd?: number },
): Promise<MountResult> {
  const helper = fileURLToPath(moduleBeside(import.meta.url, 'mount-helper'));
  const child = spawn(
    process.execPath,
    ['--no-warnings', '--max-semi-space-size=1', helper],
    // In the place of TARGET_FD.
    { stdio: ['pipe', 'pipe', 'pipe', targetFd ?? 'ignore'] },
  );
  const input = defined(child.stdin, 'it is a pipe');
  input.on('error', () => {}); // It has ended, which says more.
  input.end(JSON.stringify(request));
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    const stream = defined(child[name], 'it is a pipe').setEncoding('utf8');
    stream.on('data', (text: string) => {
      if (output[name].length < OUTPUT_BYTES_MAX) output[name] += text;
    });
  }
  const of = request.do === 'unmount-all' ? `${request.mounts.length} mounts` : request.target;
  const step = `${request.do} of ${of}`;
  const code = await ended(components.clock, child, { step, timeoutMs });
  if (code !== 0) {
    const text = output.stderr.trim().slice(0, 500);
    throw new DeviceError(`${step}: the helper process ended with ${code}: ${text}`, {
      code: 'failed',
      step,
    });
  }
  return JSON.parse(output.stdout) as MountResult;
}

/**
 * Resolves with the exit code of the child. Kills a late child without waiting for its end: only a
 * forced unmount may end its read.
 */
function ended(
  clock: Clock,
  child: ChildProcess,
  limit: { step: string; timeoutMs: number },
): Promise<number | null> {
  const { step, timeoutMs } = limit;
  return new Promise((resolve, reject) => {
    const timer = clock.setTimer(timeoutMs, () => {
      child.kill('SIGKILL');
      reject(
        new DeviceError(
          `${step} did not end within ${timeoutMs} ms; the helper process was killed`,
          {
            code: 'timeout',
            step,
          },
        ),
      );
    });
    child.on('error', (cause) => {
      timer.cancel();
      reject(
        new DeviceError(
          `${step}: the helper process did not start`,
          { code: 'failed', step },
          { cause },
        ),
      );
    });
    child.on('close', (code) => {
      timer.cancel();
      resolve(code);
    });
  });
}
