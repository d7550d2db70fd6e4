import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, it, onTestFinished } from 'vitest';
import { SharedFiles } from '../../../src/device/store-reader/shared-files.ts';
import { StoreReader } from '../../../src/device/store-reader/store-reader.ts';
import { blockCount, blockIndex, BLOCK_SIZE_BYTES } from '../../../src/image/block.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { NodeCodec } from '../../../src/runtime/node/codec.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { SeededRandom } from '../../../src/sim/seeded-random.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { openFilesBelow } from './kit/reader-rig.ts';
import { WRITTEN, writtenBytes } from './kit/written-blobs.ts';

/** Changes that another process makes; it takes some seconds. */
const CHANGES = 4000;

/** Reads between two turns of the event loop. */
const BATCH = 200;

const expected = WRITTEN.map((blob) =>
  Array.from({ length: blockCount(blob.sizeBytes) }, (_, i) => writtenBytes(blob, blockIndex(i))),
);

/** A reader of all blobs; gives how many bytes it has read. */
function openReader(dir: string, by: 'pieces' | 'blocks', random: SeededRandom) {
  const shared = new SharedFiles(new SharedArrayBuffer(SharedFiles.sizeBytes));
  shared.setBounds({ filesMax: 5, memoryBytesMax: 8 * BLOCK_SIZE_BYTES });
  onTestFinished(() => shared.closeAll());
  const { sources } = new StoreReader(
    { clock: new SystemClock(), codec: new NodeCodec(), hash: new NodeHash(), shared },
    { dir, untrustedSigners: [], blobs: WRITTEN.map((blob) => ({ blob, by })) },
  );
  const counts = { held: 0, missed: 0, wrong: 0 };
  const readOnce = (): void => {
    const number = random.below(WRITTEN.length);
    const index = random.below(expected[number]!.length);
    const block = expected[number]![index]!;
    const from = random.below(block.length);
    const length = 1 + random.below(Math.min(5000, block.length - from));
    shared.lock();
    const got = sources[number]!(index * BLOCK_SIZE_BYTES + from, length);
    if (got === undefined) counts.missed++;
    else if (Buffer.compare(got, block.subarray(from, from + length)) === 0) counts.held++;
    else counts.wrong++;
    shared.unlock();
  };
  return { shared, counts, readOnce };
}

describe('StoreReader beside a writer', () => {
  it.each([1, 2, 3, 4])(
    'gives no wrong byte of a store that is changed all the time (%i)',
    async (seed) => {
      const root = tempFolder();
      const random = new SeededRandom(`reads ${seed}`);
      const readers = [openReader(root, 'pieces', random), openReader(root, 'blocks', random)];
      const program = new URL('./kit/store-writer.ts', import.meta.url).pathname;
      const args = ['--no-warnings', program, root, String(seed), String(CHANGES)];
      const child = spawn(process.execPath, args, { stdio: ['ignore', 'inherit', 'inherit'] });
      let code: unknown;
      void once(child, 'exit').then(([found]) => {
        code = found;
      });
      onTestFinished(() => void child.kill('SIGKILL'));
      while (code === undefined) {
        for (let i = 0; i < BATCH; i++) for (const { readOnce } of readers) readOnce();
        for (const { shared } of readers) shared.sweep();
        await nextTurn();
      }
      expect(code).toBe(0);
      for (const { shared, counts } of readers) {
        expect(counts.wrong).toBe(0);
        expect(counts.held).toBeGreaterThan(100);
        expect(counts.missed).toBeGreaterThan(100);
        shared.sweep();
      }
      expect(openFilesBelow(root).filter((path) => path.endsWith(' (deleted)'))).toEqual([]);
    },
  );
});
