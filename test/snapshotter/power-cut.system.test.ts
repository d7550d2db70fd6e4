import { randomBytes } from 'node:crypto';
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { tempFolder } from '../kit/temp-folder.ts';
import { startSnapshotter } from './kit/served-snapshotter.ts';

const { signal } = new AbortController();

const DAMAGES: Readonly<Record<string, (bytes: Buffer) => Buffer>> = {
  empty: () => Buffer.alloc(0),
  noise: (bytes) => randomBytes(bytes.length),
  zeros: (bytes) => Buffer.alloc(bytes.length),
  half: (bytes) => bytes.subarray(0, bytes.length / 2),
};

const KINDS = Object.entries(DAMAGES);

describe('a snapshotter whose metadata was damaged', () => {
  it.each(KINDS)('%s: it says what to do, and removes nothing', async (_, how) => {
    const made = await startSnapshotter();
    const name = { key: 'default/1/a', parent: '', labels: {} };
    await made.snapshotter.prepare(name, signal);
    const written = join('snapshots', '1', 'fs', 'written');
    writeFileSync(join(made.folder, written), 'by a container');
    await made.stop();
    const folder = join(tempFolder(), 'copy');
    cpSync(made.folder, folder, { recursive: true });
    const metadata = join(folder, 'metadata.db');
    writeFileSync(metadata, how(readFileSync(metadata)));
    const start = (): Promise<unknown> => startSnapshotter({ folder });
    await expect(start()).rejects.toThrow(/metadata.*restore the file; or remove what containerd/);
    expect(readFileSync(join(folder, written), 'utf8')).toBe('by a container');
    // A new folder works, as the message says.
    rmSync(folder, { recursive: true });
    await expect(start()).resolves.toMatchObject({ folder });
  });
});
