import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { describe, expect, it } from 'vitest';
import { DiskStore } from '../../src/blockstore/disk-store.ts';
import { BLOCK_SIZE_BYTES } from '../../src/image/block.ts';
import { NodeDisk } from '../../src/runtime/node/disk.ts';
import { storeParts, testBlob } from '../kit/blocks.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { readAll } from './kit/read-all.ts';

/** Number of rounds: each kills a process, and then reads the blocks that it left. */
const ROUNDS = 10;

describe('BlockStore after kill -9', () => {
  it(`DiskStore yields only whole blocks after ${ROUNDS} kills of a writing process`, async () => {
    const root = tempFolder();
    const writer = new URL('./kit/crash-writer.ts', import.meta.url).pathname;
    const many = [testBlob(1, 40 * BLOCK_SIZE_BYTES), testBlob(2, 25 * BLOCK_SIZE_BYTES + 1)];
    let foundLast = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const child = spawn(process.execPath, [writer, root], {
        stdio: ['pipe', 'pipe', 'inherit'],
      });
      const exited = once(child, 'exit');
      const told = new Set<string>();
      const dropped = new Set<string>();
      try {
        for await (const line of createInterface({ input: child.stdout })) {
          const [what = '', block = ''] = line.split(' ');
          (what === 'put' ? told : dropped).add(block);
          // At a different time in each round, during writes in flight.
          if (told.size >= 3 + 5 * round) child.kill('SIGKILL');
        }
      } finally {
        child.kill('SIGKILL');
        await exited;
      }
      const store = new DiskStore(storeParts(new NodeDisk({ root })));
      await store.start();
      const { found, lost } = await readAll(store, many);
      expect([...lost]).toEqual([]);
      for (const block of told) if (!dropped.has(block)) expect([...found]).toContain(block);
      foundLast = found.size;
      await store.stop();
    }
    expect(foundLast).toBeGreaterThan(0);
  });
});
