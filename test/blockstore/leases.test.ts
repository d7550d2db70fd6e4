import { describe, expect, it } from 'vitest';
import { Leases } from '../../src/blockstore/leases.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { SeededRandom } from '../../src/sim/seeded-random.ts';
import { ManualClock } from '../kit/manual-clock.ts';
import { SimDisk } from '../kit/sim-disk.ts';
import { digestOf } from '../tree/kit/messages.ts';

const [A, B, C] = [digestOf(1), digestOf(2), digestOf(3)];
const ORPHAN_MS = 1_000;

/** The `retain()`s of a store. */
class Retained {
  readonly counts = new Map<string, number>();

  retain(digests: readonly string[]): void {
    for (const digest of digests) this.counts.set(digest, (this.counts.get(digest) ?? 0) + 1);
  }

  release(digests: readonly string[]): void {
    for (const digest of digests) {
      const count = this.counts.get(digest) ?? 0;
      expect(count).toBeGreaterThan(0);
      if (count > 1) this.counts.set(digest, count - 1);
      else this.counts.delete(digest);
    }
  }

  get digests(): readonly string[] {
    return [...this.counts.keys()].sort();
  }
}

class Rig {
  disk = new SimDisk({ random: new SeededRandom('leases') });
  store = new Retained();
  clock = new ManualClock();
  warnings: object[] = [];
  leases = this.#new();

  static async start(): Promise<Rig> {
    const rig = new Rig();
    await rig.disk.makeFolder('');
    await rig.leases.start();
    return rig;
  }

  /** The agent is killed, and another one starts. */
  async restart(): Promise<void> {
    this.disk = this.disk.kill();
    this.store = new Retained();
    this.clock = new ManualClock();
    this.leases = this.#new();
    await this.leases.start();
  }

  #new(): Leases {
    const logger = { ...silentLogger, warn: (fields: object) => this.warnings.push(fields) };
    const parts = { disk: this.disk, store: this.store, clock: this.clock, logger };
    return new Leases(parts as never, { orphanMs: ORPHAN_MS });
  }
}

describe('Leases', () => {
  it('Leases.hold() keeps blobs mounted until as many drops', async () => {
    const { leases, store } = await Rig.start();
    await leases.hold([A, B]);
    await leases.hold([B]);
    leases.drop([A, B]);
    expect(store.digests).toEqual([B]);
    leases.drop([B]);
    expect(store.digests).toEqual([]);
    expect(() => leases.drop([B])).toThrow();
  });

  it('Leases.start() finds what was held when the agent was killed', async () => {
    const rig = await Rig.start();
    await rig.leases.hold([A, B]);
    rig.leases.drop([A]);
    await rig.leases.hold([C]);
    await rig.restart();
    expect(rig.store.digests).toEqual([B, C].sort());
    // Another restart changes nothing.
    await rig.restart();
    expect(rig.store.digests).toEqual([B, C].sort());
  });

  it('Leases.settle() lets go of what nobody holds again', async () => {
    const rig = await Rig.start();
    await rig.leases.hold([A, B]);
    await rig.restart();
    await rig.leases.hold([A]);
    rig.leases.settle();
    expect(rig.store.digests).toEqual([A]);
    await rig.leases.stop();
    await rig.restart();
    expect(rig.store.digests).toEqual([A]);
  });

  it('leases without a holder end after a while', async () => {
    const rig = await Rig.start();
    await rig.leases.hold([A]);
    await rig.restart();
    rig.clock.advance(ORPHAN_MS - 1);
    expect(rig.store.digests).toEqual([A]);
    rig.clock.advance(1);
    expect(rig.store.digests).toEqual([]);
    await rig.leases.stop();
    await rig.restart();
    expect(rig.store.digests).toEqual([]);
  });

  it('Leases.orphan() keeps blobs for the holder that comes back', async () => {
    const rig = await Rig.start();
    await rig.leases.hold([A, B]);
    rig.leases.orphan([A, B]);
    expect(rig.store.digests).toEqual([A, B].sort());
    await rig.leases.hold([A]);
    rig.leases.settle();
    expect(rig.store.digests).toEqual([A]);
    expect(rig.clock.delays).toEqual([]);
  });

  it('a holder that goes away again has all of the time', async () => {
    const rig = await Rig.start();
    await rig.leases.hold([A]);
    rig.leases.orphan([A]);
    rig.clock.advance(ORPHAN_MS / 2);
    await rig.leases.hold([B]);
    rig.leases.orphan([B]);
    rig.clock.advance(ORPHAN_MS / 2);
    expect(rig.store.digests).toEqual([A, B].sort());
  });

  it('a disk that fails, or a damaged file, costs leases and never the start', async () => {
    const rig = await Rig.start();
    const file = await rig.disk.open('leases', 'write');
    await file.write(new TextEncoder().encode(`${A}\nsha256:12\n${B}\n`), 0);
    await file.close();
    await rig.restart();
    expect(rig.store.digests).toEqual([A, B].sort());
    expect(rig.warnings).toEqual([{ path: 'leases', digestCount: 2 }]);
    rig.disk.setFault(() => {
      throw new Error('no disk');
    });
    await rig.leases.hold([C]);
    expect(rig.store.digests).toEqual([A, B, C].sort());
  });
});
