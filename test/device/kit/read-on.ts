import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { tempFolder } from '../../kit/temp-folder.ts';

/** What reads of a file gave: its sha256, or an error, and how often. */
export interface ReadResult {
  readonly sum: string;
  readonly count: number;
}

/**
 * Reads a file again and again past all caches, in a process of its own, until the function is
 * called that this gives; the different results.
 */
export function readOnAndOn(path: string): () => Promise<readonly ReadResult[]> {
  const script =
    'while [ ! -e "$2" ]; do dd if="$1" iflag=direct bs=64k status=none 2>&1 | sha256sum; ' +
    'done | sort | uniq -c';
  const stop = join(tempFolder(), 'stop');
  const child = spawn('sh', ['-c', script, 'sh', path, stop], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const text: Buffer[] = [];
  child.stdout.on('data', (data: Buffer) => text.push(data));
  const closed = new Promise((resolve) => child.on('close', resolve));
  return async () => {
    writeFileSync(stop, '');
    await closed;
    const lines = Buffer.concat(text).toString().trim().split('\n');
    return lines.map((line) => {
      const [count, sum = ''] = line.trim().split(/\s+/);
      return { count: Number(count), sum };
    });
  };
}
