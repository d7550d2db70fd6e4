import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import type { DemoResult } from '../../src/demo/demo.ts';
import { describeWith, needs } from '../kit/requires.ts';

const run = promisify(execFile);
const CLI = new URL('../../bin/xylem.js', import.meta.url).pathname;

describeWith('xylem demo', [needs.program('mke2fs')], () => {
  it('brings an image to every host, and reads each block from the registry once', async () => {
    const { stdout } = await run(process.execPath, [CLI, 'demo', '--hosts', '4', '--json']);
    const result = JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as DemoResult;
    const mountable = needs.root() === undefined && needs.fuse() === undefined;
    expect(result).toMatchObject({ hosts: 4, mounted: mountable ? 4 : 0, failedReads: 0 });
    expect(result.depthMax).toBeGreaterThanOrEqual(2);
    expect(result.imageBytes).toBeGreaterThan(30e6);
    expect(result.touchedBytes).toBeGreaterThan(1e6);
    expect(result.cold.originBytes).toBeLessThanOrEqual(1.05 * result.touchedBytes);
    expect(result.cold.peerBytes).toBeGreaterThanOrEqual(result.touchedBytes);
    expect(result.warm).toMatchObject({ originBytes: 0, peerBytes: 0 });
  }, 180_000);
});
