import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { expect, it } from 'vitest';
import { NodeDisk } from '../../../src/runtime/node/disk.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

const LOCK_MODULE = new URL('../../../src/runtime/node/disk.ts', import.meta.url).href;

it('Disk.lock() succeeds again after its holder was killed', async () => {
  const root = tempFolder();
  const script = `const { NodeDisk } = await import('${LOCK_MODULE}');
      await new NodeDisk({ root: process.argv[1] }).lock('');
      console.log('locked');
      process.stdin.resume();`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script, root], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const exited = once(child, 'exit');
  try {
    await once(child.stdout, 'data');
    const disk = new NodeDisk({ root });
    await expect(disk.lock('')).rejects.toThrow(`pid ${child.pid}`);
    child.kill('SIGKILL');
    await exited;
    expect(readdirSync(root)).toHaveLength(1);
    await (await disk.lock('')).release();
    expect(readdirSync(root)).toEqual([]);
  } finally {
    child.kill('SIGKILL');
  }
});
