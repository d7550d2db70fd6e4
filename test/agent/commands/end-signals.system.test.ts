import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { expect, onTestFinished, test } from 'vitest';
import { FakeRegistry } from '../../kit/fake-registry.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

const BIN = new URL('../../../bin/xylem.js', import.meta.url).pathname;

test.each([
  ['inspect IMAGE'],
  ['check IMAGE'],
  ['flatten IMAGE --out OUT'],
  ['trace show IMAGE'],
  ['copy IMAGE oci:OUT:1'],
  ['convert IMAGE oci:OUT:1'],
  ['export IMAGE oci:OUT:1'],
])('%s exits with 130 after SIGINT, with 143 after SIGTERM', async (command) => {
  const registry = new FakeRegistry();
  await registry.start();
  onTestFinished(() => registry.stop());
  for (const [signal, wanted] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const) {
    const { promise: asked, resolve } = Promise.withResolvers<void>();
    // No answer ever comes.
    registry.behaviours.set('', () => {
      resolve();
      return true;
    });
    const args = command
      .replace('IMAGE', `docker://${registry.address}/app:1`)
      .replace('OUT', join(tempFolder(), 'out'))
      .split(' ');
    const child = spawn(process.execPath, [BIN, ...args, '--insecure'], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    onTestFinished(() => void child.kill('SIGKILL'));
    const [said, exited] = [text(child.stderr), once(child, 'exit')];
    await asked;
    child.kill(signal);
    expect(await exited).toEqual([wanted, null]);
    expect(await said).toContain('interrupted');
  }
});
