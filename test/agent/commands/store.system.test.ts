import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { AdminServer } from '../../../src/agent/admin/admin-server.ts';
import { StoreAdmin } from '../../../src/agent/admin/store-service.ts';
import { MemoryStore } from '../../../src/blockstore/memory-store.ts';
import { BLOCK_SIZE_BYTES, blockIndex } from '../../../src/image/block.ts';
import { testBlob, testBlock } from '../../kit/blocks.ts';
import { Failure } from '../../kit/twins.ts';
import { adminServer } from '../kit/admin.ts';

const BIN = new URL('../../../bin/xylem.js', import.meta.url).pathname;
const [blob, other] = [testBlob(1, BLOCK_SIZE_BYTES), testBlob(2, BLOCK_SIZE_BYTES)];
const block = blockIndex(0);

const store = new MemoryStore();
let server: AdminServer;
let folder: string;
let socket: string;
beforeAll(async () => {
  await store.start();
  for (const each of [blob, other]) await store.put(each, block, testBlock(each, block));
  const admin = new StoreAdmin({ store, resolve: () => Promise.reject(new Failure('not-found')) });
  folder = mkdtempSync(join(tmpdir(), 'xylem-test-'));
  ({ server, socket } = adminServer(folder, { store: admin }));
  await server.start();
});
afterAll(async () => {
  await server.stop();
  await store.stop();
  rmSync(folder, { recursive: true });
});

/** Runs `xylem store ...` against the server. */
function xylem(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  return new Promise((resolve) => {
    const all = [BIN, 'store', ...args, '--admin', socket];
    execFile(process.execPath, all, { cwd: '/' }, (error, out, err) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, out, err });
    });
  });
}

describe('xylem store', () => {
  it('pin, ls, gc and unpin change and show the contents of the store', async () => {
    expect(await xylem('pin', blob.digest)).toMatchObject({
      code: 0,
      out: `${blob.digest} pinned\n`,
    });
    const list = await xylem('ls');
    expect(list.out).toMatch(/^BLOB +HELD +OF +BLOCKS +KEPT AS +LAST USE\n/);
    expect(list.out).toContain(`\n${blob.digest}  256KiB  256KiB  1       pinned   1970-01-01T`);
    expect(await xylem('gc', '--to', '0', '--json')).toMatchObject({
      code: 0,
      out: `{"blockCount":1,"sizeBytes":${BLOCK_SIZE_BYTES}}\n`,
    });
    const { blobs } = JSON.parse((await xylem('ls', '--json')).out) as { blobs: unknown[] };
    expect(blobs).toMatchObject([{ digest: blob.digest, pinned: true, heldBytes: 262_144 }]);
    expect((await xylem('unpin', blob.digest)).out).toBe(`${blob.digest} no longer pinned\n`);
    expect((await xylem('gc')).out).toBe('freed 0B in 0 blocks\n');
    expect((await xylem('gc', '--to', '100KiB')).out).toBe('freed 256KiB in 1 blocks\n');
    expect((await xylem('ls')).out).toBe('The store is empty.\n');
  });

  it('reports an error in one line', async () => {
    expect(await xylem('pin', 'nonsense')).toEqual({
      code: 1,
      out: '',
      err:
        'xylem: what is "nonsense", but must be sha256: and 64 lower-case hex digits, ' +
        'or docker://HOST[:PORT]/NAME:TAG\n',
    });
    expect(await xylem('pin', 'docker://r.example/gone:1')).toMatchObject({ code: 1 });
    expect(await xylem('gc', '--to', 'much')).toMatchObject({ code: 2 });
  });
});
