import { execFileSync } from 'node:child_process';
import { expect, it } from 'vitest';

const HEAP = new URL('../../../src/runtime/node/heap.ts', import.meta.url).href;

/** Runs a script in a process of its own, whose heap nobody else has shaped; what it prints. */
function run(script: string): number {
  const args = ['--input-type=module', '-e', script];
  return Number(execFileSync(process.execPath, args, { encoding: 'utf8' }));
}

it('collectGarbage() frees what nobody holds', () => {
  const freed = `
    const { collectGarbage } = await import('${HEAP}');
    let large = Array.from({ length: 1e6 }, (_, i) => ({ i }));
    const before = process.memoryUsage().heapUsed;
    large = undefined;
    collectGarbage();
    console.log((before - process.memoryUsage().heapUsed) / 2 ** 20);
  `;
  expect(run(freed)).toBeGreaterThan(20);
});
