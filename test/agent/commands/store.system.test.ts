import { execFile } from 'node:child_process';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AdminServer } from '../../../src/agent/admin/admin-server.ts';
import { PromMetrics } from '../../../src/agent/admin/prom-metrics.ts';
import { StoreAdmin } from '../../../src/agent/admin/store-service.ts';
import { MemoryStore } from '../../../src/blockstore/memory-store.ts';
import { BLOCK_SIZE_BYTES, blockIndex } from '../../../src/image/block.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { testBlob, testBlock } from '../../kit/blocks.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { Failure, StatusTwin } from '../../kit/twins.ts';

const BIN = new URL('../../../bin/xylem.js', import.meta.url).pathname;
const [blob, other] = [testBlob(1, BLOCK_SIZE_BYTES), testBlob(2, BLOCK_SIZE_BYTES)];
const block = blockIndex(0);

const store = new MemoryStore();
let server: AdminServer;
let base: string;
beforeAll(async () => {
  await store.start();
  for (const each of [blob, other]) await store.put(each, block, testBlock(each, block));
  const admin = new StoreAdmin({ store, resolve: () => Promise.reject(new Failure('not-found')) });
  server = new AdminServer(
    {
      status: new StatusTwin(),
      metrics: new PromMetrics({ processMetrics: false }),
      clock: new ManualClock(),
      logger: silentLogger,
      store: admin,
    },
    { listen: { host: '127.0.0.1', port: 0 } },
  );
  await server.start();
  base = server.url;
});
afterAll(async () => {
  await server.stop();
  await store.stop();
});

/** Runs `xylem store ...` against the server. */
function xylem(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  return new Promise((resolve) => {
    const all = [BIN, 'store', ...args, '--admin', base];
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
