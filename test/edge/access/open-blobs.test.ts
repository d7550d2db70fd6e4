import { describe, expect, it } from 'vitest';
import type { BlobAddress } from '../../../src/edge/access/contract.ts';
import { OpenBlobs } from '../../../src/edge/access/open-blobs.ts';
import type { Digest } from '../../../src/image/digest.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { Failure } from '../../kit/twins.ts';

const [A, B] = ['a', 'b'].map((digit) => `sha256:${digit.repeat(64)}` as Digest) as [
  Digest,
  Digest,
];
const ADDRESS: BlobAddress = {
  scheme: 'https',
  registry: 'registry.test',
  repository: 'app',
  url: 'https://registry.test/v2/app/blobs/x',
};
const SIZE_BYTES = 1000;

/** `OpenBlobs` over trees that note what they are told. */
class World {
  readonly clock = new ManualClock();
  readonly calls: string[] = [];
  /** Whether a root knows the size of the blob. */
  isKnown = true;
  learnedSizeBytes: number | undefined;
  gate: Promise<void> = Promise.resolve();
  readonly blobs = new OpenBlobs({
    tree: {
      open: async (blobs) => {
        await this.gate;
        for (const { blob } of blobs) this.calls.push(`open ${blob.digest.at(-1)}`);
      },
      close: (digests) => {
        for (const digest of digests) this.calls.push(`close ${digest.at(-1)}`);
      },
      learnOrigin: (digest) => void this.calls.push(`learn ${digest.at(-1)}`),
    },
    stat: async (digest) => {
      this.calls.push(`stat ${digest.at(-1)}`);
      if (!this.isKnown) throw new Failure('not-found');
      return { sizeBytes: SIZE_BYTES, isPublic: true };
    },
    sizeOf: () => this.learnedSizeBytes,
    clock: this.clock,
  });

  open(digest: Digest, signal = new AbortController().signal) {
    return this.blobs.open(digest, ADDRESS, { signal });
  }
}

describe('OpenBlobs', () => {
  it('OpenBlobs.open() asks for the size and joins the trees once, for all clients', async () => {
    const world = new World();
    expect(world.blobs.opened(A)).toBeUndefined();
    const blob = { digest: A, sizeBytes: SIZE_BYTES };
    expect(await Promise.all([world.open(A), world.open(A)])).toEqual([blob, blob]);
    expect(await world.open(A)).toEqual(blob);
    expect(world.blobs.opened(A)).toEqual(blob);
    expect(world.calls).toEqual(['stat a', 'open a']);
  });

  it('OpenBlobs.open() leaves the trees of a blob that was idle for 20 minutes', async () => {
    const world = new World();
    await Promise.all([world.open(A), world.open(B)]);
    world.clock.advance(19 * 60_000);
    world.blobs.opened(B);
    world.clock.advance(60_000);
    await world.open(B);
    expect(world.calls.slice(-1)).toEqual(['close a']);
    expect(world.blobs.opened(A)).toBeUndefined();
  });

  it('OpenBlobs.open() tries again after a failure', async () => {
    const world = new World();
    world.isKnown = false;
    await expect(world.open(A)).rejects.toMatchObject({ code: 'not-found' });
    world.isKnown = true;
    await expect(world.open(A)).resolves.toMatchObject({ sizeBytes: SIZE_BYTES });
  });

  it('OpenBlobs.open() reads a blob of a learned size without trees for a minute', async () => {
    const world = new World();
    world.isKnown = false;
    world.learnedSizeBytes = 7;
    expect(await world.open(A)).toEqual({ digest: A, sizeBytes: 7 });
    await world.open(A);
    expect(world.calls).toEqual(['stat a', 'learn a']);
    world.isKnown = true;
    world.clock.advance(60_000);
    await world.open(A);
    expect(world.calls.slice(2)).toEqual(['stat a', 'open a']);
  });

  it('OpenBlobs.open() goes on for others when one client goes away', async () => {
    const world = new World();
    const gate = Promise.withResolvers<void>();
    world.gate = gate.promise;
    const leaving = new AbortController();
    const left = world.open(A, leaving.signal);
    const kept = world.open(A);
    leaving.abort(new Error('gone'));
    await expect(left).rejects.toThrow('gone');
    gate.resolve();
    await expect(kept).resolves.toMatchObject({ sizeBytes: SIZE_BYTES });
    expect(world.calls).toEqual(['stat a', 'open a']);
  });
});
