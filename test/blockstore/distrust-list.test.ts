import { describe, expect, it } from 'vitest';
import { DistrustList } from '../../src/blockstore/distrust-list.ts';
import { silentLogger, type Logger } from '../../src/runtime/logger.ts';
import { SeededRandom } from '../../src/sim/seeded-random.ts';
import { SimDisk } from '../kit/sim-disk.ts';
import { digestOf } from '../tree/kit/messages.ts';

function newDisk(): SimDisk {
  return new SimDisk({ random: new SeededRandom('distrust') });
}

async function started(disk: SimDisk, logger: Logger = silentLogger): Promise<DistrustList> {
  await disk.makeFolder('');
  const list = new DistrustList({ disk, logger });
  await list.start();
  return list;
}

async function write(disk: SimDisk, text: string): Promise<void> {
  await disk.makeFolder('');
  const file = await disk.open('distrusted', 'write');
  await file.write(new TextEncoder().encode(text), 0);
  await file.close();
}

describe('DistrustList', () => {
  it('DistrustList.has() knows over a restart what was added', async () => {
    const disk = newDisk();
    const list = await started(disk);
    for (const n of [1, 2, 1]) list.add(digestOf(n));
    expect(list.has(digestOf(2))).toBe(true);
    await list.stop();
    const next = await started(disk);
    expect([1, 2, 3].map((n) => next.has(digestOf(n)))).toEqual([true, true, false]);
    expect([...next]).toEqual([digestOf(1), digestOf(2)]);
  });

  it('DistrustList.add() keeps the 1,024 blobs found last, and says which it forgot', async () => {
    const disk = newDisk();
    const forgotten: unknown[] = [];
    const logger = { ...silentLogger, warn: (fields: object) => forgotten.push(fields) };
    const list = await started(disk, logger as unknown as Logger);
    for (let n = 0; n < 1026; n++) list.add(digestOf(n));
    await list.stop();
    expect(forgotten).toEqual([{ blob: digestOf(0) }, { blob: digestOf(1) }]);
    const next = await started(disk);
    expect([1, 2, 1025].map((n) => next.has(digestOf(n)))).toEqual([false, true, true]);
  });

  it('DistrustList.start() passes over damaged lines and keeps the others', async () => {
    const disk = newDisk();
    await write(disk, `${digestOf(1)}\nsha256:12\n${digestOf(2)}\n`);
    expect([...(await started(disk))]).toEqual([digestOf(1), digestOf(2)]);
  });
});
