import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { registerConvert } from '../../../src/agent/commands/convert.ts';
import { registerFlatten } from '../../../src/agent/commands/flatten.ts';
import { registerInspect } from '../../../src/agent/commands/inspect.ts';
import { registerVerify } from '../../../src/agent/commands/verify.ts';
import { bytesEqual } from '../../../src/util/bytes.ts';
import { makeLayer, sampleBytes } from '../../kit/layers.ts';

const DEVICE = 1024 * 1024;
let folder: string;
let good: string;
let bad: string;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'xylem-commands-'));
  [good, bad] = [join(folder, 'good'), join(folder, 'bad')];
  const ranges = [{ offset: 8192, bytes: sampleBytes(100_352, 3) }];
  const blob = await makeLayer({ virtualSizeBytes: DEVICE, ranges });
  writeFileSync(good, blob);
  blob[20_000] = (blob[20_000] ?? 0) ^ 1;
  writeFileSync(bad, blob);
});

afterEach(() => {
  rmSync(folder, { recursive: true });
  process.exitCode = undefined;
});

/** Runs a command line and returns its output. */
async function run(...argv: string[]): Promise<string> {
  const program = new Command().exitOverride();
  for (const register of [registerInspect, registerVerify, registerFlatten, registerConvert]) {
    register(program);
  }
  let text = '';
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((chunk) => {
    text += String(chunk);
    return true;
  });
  try {
    await program.parseAsync(argv, { from: 'user' });
  } finally {
    write.mockRestore();
  }
  return text;
}

describe('xylem inspect', () => {
  it('reports the parts of the layer', async () => {
    const facts = JSON.parse(await run('inspect', '--json', good)) as Record<string, unknown>;
    expect(facts).toMatchObject({
      wrappers: ['tar', 'zfile', 'lsmt'],
      virtualSizeBytes: DEVICE,
      mappedBytes: 100_352,
      segmentCount: 1,
    });
    expect(await run('inspect', good)).toContain('tar > zfile > lsmt');
  });

  it('rejects a file that is not a layer', async () => {
    writeFileSync(good, 'text');
    const out = ['--out', join(folder, 'disk')];
    for (const args of [
      ['inspect', good],
      ['flatten', ...out, bad, good],
    ]) {
      await expect(run(...args)).rejects.toMatchObject({
        code: 'not-a-layer',
        message: expect.stringContaining(`${good}: `) as string,
      });
    }
  });
});

describe('xylem verify', () => {
  it('reports for every blob whether it is sound, and fails when one is not', async () => {
    expect(await run('verify', good)).toBe(`ok   ${good}: 28 blocks\n`);
    expect(process.exitCode).toBeUndefined();
    const text = await run('verify', good, bad);
    expect(text).toMatch(/^ok .*\nbad .*ZFile block [0-9]+ .*CRC/);
    expect(process.exitCode).toBe(1);
    const verdicts = JSON.parse(await run('verify', '--json', good, bad)) as { ok: boolean }[];
    expect(verdicts.map((verdict) => verdict.ok)).toEqual([true, false]);
  });
});

describe('xylem flatten', () => {
  it('writes the device', async () => {
    const out = join(folder, 'disk');
    await run('flatten', '--out', out, good);
    const disk = readFileSync(out);
    expect(disk).toHaveLength(DEVICE);
    expect(bytesEqual(disk.subarray(8192, 8192 + 100_352), sampleBytes(100_352, 3))).toBe(true);
  });

  it('rejects an image beside other layers', async () => {
    const flat = run('flatten', '--out', join(folder, 'disk'), good, 'oci:/tmp/x:t');
    await expect(flat).rejects.toMatchObject({ code: 'argument' });
  });

  it('rejects a damaged layer and names the block', async () => {
    const out = join(folder, 'disk');
    await expect(run('flatten', '--out', out, bad)).rejects.toThrow(/ZFile block [0-9]+ .*CRC/);
  });
});

describe('xylem convert', () => {
  it.each([
    ['/tmp/app.tar', 'oci:/tmp/x:t'],
    ['dir:', 'oci:/tmp/x:t'],
    ['dir:/tmp', '/tmp/x:t'],
    ['oci:/tmp/y:t', 'oci:/tmp/x:t', '--compression', 'gzip'],
    ['oci:/tmp/y:t', 'oci:/tmp/x:t', '--block-size', '64KiB'],
    ['oci:/tmp/y:t', 'oci:/tmp/x:t', '--size', '2TiB'],
    ['oci:/tmp/y:t', 'oci:/tmp/x:t', '--platform', 'arm64'],
  ])('rejects %s to %s %s %s with what is possible', async (...args) => {
    await expect(run('convert', ...args)).rejects.toMatchObject({ code: 'argument' });
  });
});
