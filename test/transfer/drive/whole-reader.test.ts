import { describe, expect, it, vi } from 'vitest';
import { MemoryStore } from '../../../src/blockstore/memory-store.ts';
import { NO_ATTESTATION } from '../../../src/image/attestation.ts';
import {
  BLOCK_SIZE_BYTES,
  blockIndex,
  type BlobOrigin,
  type BlobRef,
} from '../../../src/image/block.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { WholeReader } from '../../../src/transfer/drive/whole-reader.ts';
import { defined } from '../../../src/util/assert.ts';
import { PooledBytes } from '../../../src/util/buffer-pool.ts';
import { peerId } from '../../../src/util/peer-id.ts';
import { CountingOrigin, ORIGIN } from '../../kit/engine-cluster.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

const HOUR_MS = 3_600_000;
const hash = new NodeHash();

/** A registry that may be held up. */
class SlowOrigin extends CountingOrigin {
  gate: Promise<void> | undefined;

  override async readInto(...read: Parameters<CountingOrigin['readInto']>): Promise<void> {
    await this.gate;
    return super.readInto(...read);
  }
}

async function setUp(): Promise<{
  reader: WholeReader;
  origin: SlowOrigin;
  store: MemoryStore;
  clock: ManualClock;
  check: (blob: BlobRef, by?: string, origin?: BlobOrigin) => Promise<boolean> | undefined;
}> {
  const [origin, store, clock] = [
    new SlowOrigin(),
    new MemoryStore(),
    new ManualClock({ sleeps: 'pass' }),
  ];
  await store.start();
  const parts = { origin, store, clock, hash, logger: silentLogger, metrics: silentMetrics };
  const reader = new WholeReader(parts);
  const check = (blob: BlobRef, by = 'host', origin = ORIGIN): Promise<boolean> | undefined => {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const isTaken = reader.check({ blob, origin, by: peerId(by), onEnd: resolve });
    return isTaken ? promise : undefined;
  };
  return { reader, origin, store, clock, check };
}

describe('WholeReader', () => {
  it('WholeReader.want() knows the digests of all blocks once the whole is right', async () => {
    const { reader, origin } = await setUp();
    const blob = origin.add(20 * BLOCK_SIZE_BYTES + 5);
    reader.want({ blob, origin: ORIGIN });
    const digests = await vi.waitFor(() => defined(reader.digestsOf(blob.digest), 'digests'));
    const bytes = defined(origin.blobs.get(blob.digest), 'the blob');
    for (let i = 0; i <= 20; i++) {
      const block = bytes.subarray(i * BLOCK_SIZE_BYTES, (i + 1) * BLOCK_SIZE_BYTES);
      expect(digests.matches(blockIndex(i), hash.blake3(block))).toBe(true);
    }
    expect(origin.bytes).toBe(blob.sizeBytes);
    await reader.stop();
  });

  it('WholeReader.want() leaves a wrong blob alone for a minute, then for two', async () => {
    const { reader, origin, clock } = await setUp();
    const blob = origin.add(2 * BLOCK_SIZE_BYTES);
    origin.wrongBlock = 1;
    const told = vi.spyOn(origin, 'onDistrust');
    const want = async (timesRead: number): Promise<void> => {
      reader.want({ blob, origin: ORIGIN });
      await vi.waitFor(() => expect(told).toHaveBeenCalledTimes(timesRead));
      await new Promise(setImmediate);
      expect(origin.bytes).toBe(timesRead * blob.sizeBytes);
    };
    await want(1);
    await want(1);
    clock.advance(59_000);
    await want(1);
    clock.advance(1_000);
    await want(2);
    clock.advance(119_000);
    await want(2);
    clock.advance(1_000);
    await want(3);
    expect(reader.digestsOf(blob.digest)).toBeUndefined();
    await reader.stop();
  });

  it('WholeReader.check() reads from the registry only what is not in the store', async () => {
    const { reader, origin, store, check } = await setUp();
    const blob = origin.add(4 * BLOCK_SIZE_BYTES);
    const bytes = defined(origin.blobs.get(blob.digest), 'the blob');
    for (const index of [0, 2]) {
      const block = bytes.subarray(index * BLOCK_SIZE_BYTES, (index + 1) * BLOCK_SIZE_BYTES);
      const payload = PooledBytes.unpooled(block);
      await store.put(blob, blockIndex(index), { payload, attestation: NO_ATTESTATION });
    }
    expect(await check(blob)).toBe(true);
    expect(origin.bytes).toBe(2 * BLOCK_SIZE_BYTES);
    await reader.stop();
  });

  it('WholeReader.check() finds a blob wrong of which the store has a wrong block', async () => {
    const { reader, origin, store, check } = await setUp();
    const blob = origin.add(2 * BLOCK_SIZE_BYTES);
    const payload = PooledBytes.unpooled(new Uint8Array(BLOCK_SIZE_BYTES));
    await store.put(blob, blockIndex(1), { payload, attestation: NO_ATTESTATION });
    expect(await check(blob)).toBe(false);
    expect(reader.digestsOf(blob.digest)).toBeUndefined();
    await reader.stop();
  });

  it('WholeReader.check() looks once a blob and hour, for any host, right or wrong', async () => {
    const { reader, origin, clock, check } = await setUp();
    const blob = origin.add(2 * BLOCK_SIZE_BYTES);
    expect(await check(blob)).toBe(true);
    // Reading took a few milliseconds.
    clock.advance(HOUR_MS - 100);
    expect(check(blob, 'other')).toBeUndefined();
    clock.advance(100);
    origin.wrongBlock = 0;
    expect(await check(blob)).toBe(false);
    expect(check(blob, 'other')).toBeUndefined();
    expect(origin.bytes).toBe(2 * blob.sizeBytes);
    await reader.stop();
  });

  it('WholeReader.check() burns no hour for a hostile host whose blob it cannot read', async () => {
    const { reader, origin, clock, check } = await setUp();
    const blob = origin.add(2 * BLOCK_SIZE_BYTES);
    const bytes = defined(origin.blobs.get(blob.digest), 'the blob');
    const stat = vi.spyOn(origin, 'stat');
    const fails = async (times: number): Promise<void> => {
      expect(check(blob, 'hostile')).toBeDefined();
      await vi.waitFor(() => expect(stat).toHaveBeenCalledTimes(times));
      await new Promise(setImmediate);
      expect(check(blob, 'hostile')).toBeUndefined();
    };
    origin.blobs.delete(blob.digest);
    await fails(1);
    clock.advance(60_000);
    await fails(2);
    clock.advance(119_000);
    expect(check(blob, 'hostile')).toBeUndefined();
    origin.blobs.set(blob.digest, bytes);
    // Said to be elsewhere it is looked for at once.
    expect(await check(blob, 'honest', { ...ORIGIN, repository: 'other' })).toBe(true);
    clock.advance(HOUR_MS);
    expect(await check(blob, 'honest')).toBe(true);
    expect(check(blob, 'honest')).toBeUndefined();
    await reader.stop();
  });

  it('WholeReader.check() gives a host one place in the line', async () => {
    const { reader, origin, check } = await setUp();
    const gate = Promise.withResolvers<void>();
    origin.gate = gate.promise;
    const blobs = Array.from({ length: 70 }, () => origin.add(BLOCK_SIZE_BYTES + 1));
    const [first, second, third, fourth, ...rest] = blobs as [BlobRef, BlobRef, BlobRef, BlobRef];
    // The first one is read at once; the second one waits.
    const taken = [check(first, 'hostile'), check(second, 'hostile')];
    expect(check(third, 'hostile')).toBeUndefined();
    taken.push(check(fourth, 'honest'));
    const others = rest.map((blob, i) => check(blob, `host ${i}`));
    expect(others.filter((each) => each !== undefined)).toHaveLength(62);
    gate.resolve();
    expect(await Promise.all([...taken, ...others])).not.toContain(false);
    await reader.stop();
  });

  it('WholeReader.want() does not wait for checks', async () => {
    const { reader, origin, check } = await setUp();
    const [checked, wanted] = [origin.add(BLOCK_SIZE_BYTES + 1), origin.add(BLOCK_SIZE_BYTES + 1)];
    const gate = Promise.withResolvers<void>();
    origin.gate = gate.promise;
    const outcome = check(checked);
    await new Promise(setImmediate);
    origin.gate = undefined;
    reader.want({ blob: wanted, origin: ORIGIN });
    await vi.waitFor(() => expect(reader.digestsOf(wanted.digest)).toBeDefined());
    expect(reader.digestsOf(checked.digest)).toBeUndefined();
    gate.resolve();
    expect(await outcome).toBe(true);
    await reader.stop();
  });

  it('WholeReader reads no blob of another size than the registry has', async () => {
    const { reader, origin } = await setUp();
    const blob = origin.add(3 * BLOCK_SIZE_BYTES);
    const shorter = { ...blob, sizeBytes: 2 * BLOCK_SIZE_BYTES };
    const stat = vi.spyOn(origin, 'stat');
    reader.want({ blob: shorter, origin: ORIGIN });
    await vi.waitFor(() => expect(stat).toHaveBeenCalled());
    await new Promise(setImmediate);
    expect(origin.bytes).toBe(0);
    await reader.stop();
  });
});
