import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { cp, mkdir, rename, symlink } from 'node:fs/promises';
import { get } from 'node:http';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { AgentCluster } from '../src/demo/agent-cluster.ts';
import { assert } from '../src/util/assert.ts';
import { MIB } from '../src/util/bytes.ts';

/** Bytes of one request of a reader, and its requests in flight. */
const READ_BYTES = MIB;
const READS_RUNNING = 4;

const PROJECT = fileURLToPath(new URL('..', import.meta.url));

/** The code that starts agents: from the checkout, or from a package made of it. */
export async function clusterCode(
  dir: string,
  size: 'full' | 'smoke',
): Promise<{
  readonly AgentCluster: new (...init: ConstructorParameters<typeof AgentCluster>) => AgentCluster;
}> {
  if (size === 'smoke') return import('../src/demo/agent-cluster.ts');
  const root = join(dir, 'package');
  const modules = join(PROJECT, 'node_modules');
  await mkdir(root);
  for (const part of ['bin', 'package.json']) {
    await cp(join(PROJECT, part), join(root, part), { recursive: true });
  }
  await symlink(modules, join(root, 'node_modules'));
  const compiler = join(modules, 'typescript', 'bin', 'tsc');
  const args = [compiler, '-p', 'tsconfig.build.json', '--outDir', join(root, 'dist')];
  await promisify(execFile)(process.execPath, args, { cwd: PROJECT });
  return import(join(root, 'dist', 'demo', 'agent-cluster.js'));
}

/** Reads all of the blob at the URL, front to back, four pieces at a time. */
export async function readAll(url: string, sizeBytes: number): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < sizeBytes) {
      const first = next;
      next += READ_BYTES;
      await readRange(url, first, Math.min(next, sizeBytes) - 1);
    }
  };
  await Promise.all(Array.from({ length: READS_RUNNING }, worker));
}

async function readRange(url: string, first: number, last: number): Promise<void> {
  const request = get(url, { headers: { range: `bytes=${first}-${last}` } });
  const [response] = await once(request, 'response');
  let count = 0;
  for await (const piece of response) count += piece.length;
  assert(response.statusCode === 206 && count === last - first + 1, `${url} answered ${count}`);
}

/** Writes a blob of random bytes to an OCI layout; returns its digest. */
export async function writeBlob(layoutDir: string, sizeBytes: number): Promise<string> {
  const folder = join(layoutDir, 'blobs', 'sha256');
  await mkdir(folder, { recursive: true });
  const temporary = join(folder, 'new');
  const file = createWriteStream(temporary);
  const hash = createHash('sha256');
  const piece = randomBytes(MIB);
  for (let written = 0; written < sizeBytes; written += piece.length) {
    // Every block has different contents.
    piece.writeUInt32LE(written / MIB, 0);
    hash.update(piece);
    if (!file.write(Uint8Array.from(piece))) await once(file, 'drain');
  }
  file.end();
  await once(file, 'close');
  const hex = hash.digest('hex');
  await rename(temporary, join(folder, hex));
  return `sha256:${hex}`;
}
