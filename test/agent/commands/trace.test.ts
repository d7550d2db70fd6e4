import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { describe, expect, it, vi } from 'vitest';
import { registerTrace } from '../../../src/agent/commands/trace.ts';
import { encodeTrace, type TraceAccess } from '../../../src/image/trace.ts';
import { codec } from '../../kit/layers.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

/** Runs a command line and returns its output. */
async function run(...argv: string[]): Promise<string> {
  const program = new Command().exitOverride();
  registerTrace(program);
  let text = '';
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((chunk) => {
    text += String(chunk);
    return true;
  });
  try {
    await program.parseAsync(['trace', ...argv], { from: 'user' });
  } finally {
    write.mockRestore();
  }
  return text;
}

function traceFile(accesses: readonly TraceAccess[]): string {
  const path = join(tempFolder(), 'trace');
  writeFileSync(path, encodeTrace(accesses, codec));
  return path;
}

describe('xylem trace record', () => {
  it.each([
    [],
    ['--out', '/dev/null', '--timeout', 'soon'],
    ['--out', '/dev/null', '--timeout', '0'],
    ['--out', '/dev/null', '--until-http', 'ftp://a/'],
    ['--out', '/dev/null', '--until-http', 'a'],
    ['--out', '/dev/null', '--runtime', 'docker'],
    ['--out', '/dev/null', '--platform', 'arm64'],
  ])('refuses %s %s %s %s at once', async (...options) => {
    const refused = run('record', ...options, 'oci:/tmp/x:t');
    await expect(refused).rejects.toMatchObject({ code: 'argument' });
  });
});

describe('xylem trace show', () => {
  const accesses: readonly TraceAccess[] = Array.from({ length: 12 }, (_, i) => ({
    op: 'read',
    layer: i % 2,
    offset: i * 8192,
    length: 4096,
  }));

  it('sums up a file by layers, and lists the first accesses or all', async () => {
    const path = traceFile(accesses);
    const short = await run('show', path);
    expect(short).toMatch(/^reads +12, of 48KiB\nlayer 0 +6 reads, 24KiB, .* number 0\n/);
    expect(short).toContain('9  read layer 1, 4KiB at 72KiB\n... and 2 more (--all)\n');
    expect(await run('show', '--all', path)).toContain('11  read layer 1, 4KiB at 88KiB\n');
    expect(JSON.parse(await run('show', '--json', path))).toEqual({
      source: path,
      accessCount: 12,
      readBytes: 49_152,
      layers: [
        { layer: 0, accessCount: 6, readBytes: 24_576, first: 0 },
        { layer: 1, accessCount: 6, readBytes: 24_576, first: 1 },
      ],
      accesses,
    });
  });

  it('says what is wrong with a file', async () => {
    const path = join(tempFolder(), 'trace');
    await expect(run('show', path)).rejects.toMatchObject({ code: 'file' });
    writeFileSync(path, Buffer.alloc(100));
    await expect(run('show', path)).rejects.toThrow(`${path} is no trace, or a damaged one`);
  });
});
