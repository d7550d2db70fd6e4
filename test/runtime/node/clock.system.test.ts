import { spawnSync } from 'node:child_process';
import { expect, it } from 'vitest';

it('SystemClock.setTimer() does not keep a process alive', () => {
  const module = new URL('../../../src/runtime/node/clock.ts', import.meta.url).href;
  const script = `const { SystemClock } = await import('${module}');
      new SystemClock().setTimer(3_600_000, () => {});`;
  const { status } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    timeout: 60_000,
  });
  expect(status).toBe(0);
});
