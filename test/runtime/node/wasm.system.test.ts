import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';

const PROGRAM = join(import.meta.dirname, 'kit', 'tiers.ts');

it('a module of WebAssembly never waits to be optimized until it has run for a while', async () => {
  const args = ['--allow-natives-syntax', '--no-warnings', PROGRAM];
  const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 20_000 });
  expect(stdout).toBe('optimized after one call, in both threads');
});
