import { describe, expect, it } from 'vitest';
import { KeptVerdicts } from '../../../src/edge/access/kept-verdicts.ts';
import { parseDigest, type Digest } from '../../../src/image/digest.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { SeededRandom } from '../../../src/sim/seeded-random.ts';
import { defined } from '../../../src/util/assert.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { SimDisk, simError } from '../../kit/sim-disk.ts';
import { DIGEST } from '../../kit/twins.ts';

const APP = { registry: 'r.example', repository: 'app' };
const DAY_MS = 24 * 3_600_000;
const START_MS = 1_800_000_000_000;

class Host {
  readonly clock: ManualClock;
  disk: SimDisk;

  constructor(seed = 1, clock = new ManualClock({ startMs: START_MS })) {
    this.clock = clock;
    this.disk = new SimDisk({ random: new SeededRandom(`kept ${seed}`) });
  }

  async start(): Promise<KeptVerdicts> {
    const { disk, clock } = this;
    const parts = { disk, clock, hash: new NodeHash(), logger: silentLogger };
    const kept = new KeptVerdicts(parts);
    // The store has made its folder before.
    await disk.makeFolder('').catch(() => {});
    await kept.start();
    return kept;
  }

  async overwrite(path: string, bytes: Uint8Array): Promise<void> {
    const file = await this.disk.open(path, 'write');
    await file.truncate(0);
    await file.write(bytes, 0);
    await file.close();
  }

  async bytes(): Promise<Uint8Array> {
    const file = await this.disk.open('public', 'read');
    const bytes = new Uint8Array(100_000);
    let length = 0;
    for (let count = -1; count !== 0; length += count) {
      count = await file.read(bytes.subarray(length), length);
    }
    await file.close();
    return bytes.slice(0, length);
  }
}

function numbered(number: number): Digest {
  return defined(parseDigest(`sha256:${number.toString(16).padStart(64, '0')}`), 'a digest');
}

describe('KeptVerdicts', () => {
  it('keeps a verdict of one repository over a restart, for a day', async () => {
    const host = new Host();
    const kept = await host.start();
    kept.put(DIGEST, APP, 1000);
    await kept.stop();
    host.clock.advance(DAY_MS - 1);
    const next = await host.start();
    expect(next.get(DIGEST, APP)).toEqual({ sizeBytes: 1000, leftMs: 1 });
    expect(next.get(DIGEST, { ...APP, repository: 'other' })).toBeUndefined();
    expect(next.get(numbered(1), APP)).toBeUndefined();
    host.clock.advance(1);
    expect(next.get(DIGEST, APP)).toBeUndefined();
  });

  it('writes new verdicts after two seconds, and a renewed one once an hour', async () => {
    const host = new Host();
    const kept = await host.start();
    kept.put(DIGEST, APP, 1000);
    kept.put(numbered(1), APP, 2000);
    host.clock.advance(2_000);
    await kept.stop();
    const { operationCount } = host.disk;
    host.clock.advance(3_000_000);
    kept.put(DIGEST, APP, 1000);
    host.clock.advance(2_000);
    await kept.stop();
    expect(host.disk.operationCount).toBe(operationCount);
    host.clock.advance(600_000);
    kept.put(DIGEST, APP, 1000);
    host.clock.advance(2_000);
    await kept.stop();
    expect(host.disk.operationCount).toBeGreaterThan(operationCount);
    const next = await host.start();
    expect(next.get(DIGEST, APP)).toEqual({ sizeBytes: 1000, leftMs: DAY_MS - 2_000 });
  });

  it('ends a verdict at once, for good', async () => {
    const host = new Host();
    const kept = await host.start();
    kept.put(DIGEST, APP, 1000);
    await kept.stop();
    kept.end(DIGEST, APP);
    await new Promise(setImmediate);
    await kept.stop();
    expect(kept.get(DIGEST, APP)).toBeUndefined();
    host.disk = host.disk.losePower();
    expect((await host.start()).get(DIGEST, APP)).toBeUndefined();
  });

  it('has none once the clock went back', async () => {
    const host = new Host();
    const kept = await host.start();
    kept.put(DIGEST, APP, 1000);
    host.clock.advance(5_000);
    kept.put(numbered(1), APP, 1000);
    await kept.stop();
    const back = new Host(1, new ManualClock({ startMs: START_MS + 4_999 }));
    back.disk = host.disk;
    const next = await back.start();
    expect(next.get(DIGEST, APP)).toBeUndefined();
    expect(next.get(numbered(1), APP)).toBeUndefined();
  });

  it('has none of a damaged file, whatever byte of it is wrong, and starts', async () => {
    const host = new Host();
    const kept = await host.start();
    kept.put(DIGEST, APP, 1000);
    await kept.stop();
    const bytes = await host.bytes();
    for (let at = 0; at < bytes.length - 1; at++) {
      const damaged = bytes.slice();
      damaged[at] = (damaged[at] ?? 0) ^ 1;
      await host.overwrite('public', damaged);
      expect((await host.start()).get(DIGEST, APP), `byte ${at}`).toBeUndefined();
    }
    for (const text of ['', '\n', 'xylem-public 1 ', 'xylem-public 1 x\n{}']) {
      await host.overwrite('public', Buffer.from(text));
      expect((await host.start()).get(DIGEST, APP)).toBeUndefined();
    }
  });

  it('has the old verdicts or the new after a crash at any moment', async () => {
    let crashes = 0;
    for (let seed = 0; seed < 40; seed++) {
      const host = new Host(seed);
      const first = await host.start();
      first.put(DIGEST, APP, 1000);
      await first.stop();
      host.clock.advance(1);
      const second = await host.start();
      host.disk.failAfter(1 + (seed % 8));
      second.put(numbered(1), APP, 2000);
      const stopped = second.stop().then(() => true);
      const late = new Promise<boolean>((resolve) => setTimeout(resolve, 5, false));
      if (!(await Promise.race([stopped, late]))) crashes++;
      const isKilled = seed < 20;
      host.disk = isKilled ? host.disk.kill() : host.disk.losePower();
      const next = await host.start();
      // This disk may lose both names of a rename with the power.
      expect(isKilled ? [1000] : [1000, undefined]).toContain(next.get(DIGEST, APP)?.sizeBytes);
      expect([undefined, 2000]).toContain(next.get(numbered(1), APP)?.sizeBytes);
    }
    expect(crashes).toBeGreaterThan(10);
  });

  it('goes on in memory when the disk is full, and starts when it cannot be read', async () => {
    const host = new Host();
    host.disk.setFault((_, path) => {
      throw simError('no-space', path);
    });
    const kept = await host.start();
    kept.put(DIGEST, APP, 1000);
    await kept.stop();
    expect(kept.get(DIGEST, APP)).toMatchObject({ sizeBytes: 1000 });
    host.disk.setFault(() => {});
    await kept.stop();
    expect((await host.start()).get(DIGEST, APP)).toMatchObject({ sizeBytes: 1000 });
  });

  it('keeps 16,384 verdicts, those said last', async () => {
    const host = new Host();
    const kept = await host.start();
    for (let i = 0; i <= 16_384; i++) kept.put(numbered(i), APP, i);
    await kept.stop();
    for (const each of [kept, await host.start()]) {
      expect(each.get(numbered(0), APP)).toBeUndefined();
      expect(each.get(numbered(1), APP)?.sizeBytes).toBe(1);
      expect(each.get(numbered(16_384), APP)?.sizeBytes).toBe(16_384);
    }
  });
});
