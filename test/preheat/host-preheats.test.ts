import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BlockStoreError } from '../../src/blockstore/errors.ts';
import { BLOCK_SIZE_BYTES, blockCount, blockIndex, type BlobRef } from '../../src/image/block.ts';
import { openLayer } from '../../src/image/layer.ts';
import { memorySource } from '../../src/image/byte-source.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { TransferError } from '../../src/transfer/contracts/errors.ts';
import { HostPreheats } from '../../src/preheat/host-preheats.ts';
import { isFinal, type HostProgress } from '../../src/preheat/messages.ts';
import { bytesOf, wholeImage } from '../../src/preheat/plan.ts';
import { defined } from '../../src/util/assert.ts';
import { ManualClock } from '../kit/manual-clock.ts';
import { codec, makeLayer, sampleBytes } from '../kit/layers.ts';
import { Cluster, type Node } from '../kit/engine-cluster.ts';
import { digestOf, orderOf, sizeOf } from './kit/images.ts';

const BLOCK = BLOCK_SIZE_BYTES;

function preheatsOf(node: Node, quotaBytes = 2 ** 30): HostPreheats {
  const parts = { codec, hash: new NodeHash(), clock: new SystemClock(), logger: silentLogger };
  return new HostPreheats({ ...parts, engine: node.engine, store: node.store }, { quotaBytes });
}

/** How a preheat ended. */
async function ended(preheats: HostPreheats, id: string): Promise<HostProgress> {
  return expect
    .poll(() => preheats.progress(id), { timeout: 60_000, interval: 20 })
    .toSatisfy((progress: HostProgress) => isFinal(progress.state))
    .then(() => defined(preheats.progress(id), 'a known preheat'));
}

describe('wholeImage()', () => {
  it('names every block once, all blobs at one pace', () => {
    const blob = (byte: number, blocks: number): BlobRef => ({
      digest: digestOf(new Uint8Array([byte])),
      sizeBytes: blocks * BLOCK,
    });
    const [large, small] = [blob(1, 8), blob(2, 2)];
    const blocks = [...wholeImage([large, small])];
    expect(blocks).toHaveLength(10);
    expect(bytesOf(blocks)).toBe(10 * BLOCK);
    const places = blocks.flatMap(({ blob: { digest } }, at) =>
      digest === small.digest ? [at] : [],
    );
    // The second half of the small one with the second half of the large one.
    expect(places).toEqual([1, 6]);
    expect([...wholeImage([])]).toEqual([]);
    expect(blocks.filter((each) => each.blob === large).map(({ index }) => index)).toEqual(
      Array.from({ length: 8 }, (_, i) => blockIndex(i)),
    );
  });
});

describe('HostPreheats', () => {
  let cluster: Cluster;
  const open: HostPreheats[] = [];
  beforeEach(async () => {
    cluster = new Cluster();
    await cluster.start({ roots: 1, children: 3 });
  });
  afterEach(async () => {
    await Promise.all(open.splice(0).map((preheats) => preheats.stop()));
    await cluster.stop();
  });
  const child = (at: number, quotaBytes?: number): { node: Node; preheats: HostPreheats } => {
    const node = defined(cluster.children[at], 'a child');
    const preheats = preheatsOf(node, quotaBytes);
    open.push(preheats);
    return { node, preheats };
  };

  it('brings an image to all hosts, each block from the registry once', async () => {
    const layers = [randomBytes(9 * 2 ** 20), randomBytes(3 * BLOCK + 5)];
    const order = orderOf(cluster.origin, layers, { pin: true });
    const hosts = [0, 1, 2].map((at) => child(at));
    for (const { preheats } of hosts) preheats.start('1', order);
    for (const { node, preheats } of hosts) {
      const totalBytes = sizeOf(order);
      expect(await ended(preheats, '1')).toEqual({
        state: 'done',
        doneBytes: totalBytes,
        totalBytes,
      });
      for (const bytes of layers) {
        const held = node.store.blocksOf(digestOf(bytes));
        expect(held).toHaveLength(blockCount(bytes.length));
      }
      expect(node.store.usage().every(({ keep, mounted }) => keep === 'pinned' && !mounted)).toBe(
        true,
      );
      expect(node.engine.failedReads).toBe(0);
    }
    expect(cluster.origin.bytes).toBe(sizeOf(order));
  }, 90_000);

  it('asks for nothing that the store has', async () => {
    const order = orderOf(cluster.origin, [randomBytes(5 * BLOCK)]);
    const { preheats } = child(0);
    preheats.start('1', order);
    await ended(preheats, '1');
    const fetched = defined(cluster.children[0], 'a child').engine.bytesBySource();
    preheats.start('2', order);
    expect(await ended(preheats, '2')).toMatchObject({ state: 'done', doneBytes: sizeOf(order) });
    expect(defined(cluster.children[0], 'a child').engine.bytesBySource()).toEqual(fetched);
  });

  it('brings what the trace names, and what opening the image reads', async () => {
    const device = sampleBytes(8 * 2 ** 20, 3);
    const layer = await makeLayer({
      virtualSizeBytes: device.length,
      ranges: [{ offset: 0, bytes: device }],
    });
    const at = 4 * 2 ** 20;
    const trace = [
      { op: 'read', layer: 0, offset: at, length: 70_000 },
      { op: 'write', layer: 0, offset: 0, length: 4096 },
      { op: 'read', layer: 7, offset: 0, length: 4096 },
      { op: 'read', layer: 0, offset: 2 ** 40, length: 4096 },
    ] as const;
    const order = orderOf(cluster.origin, [layer], { trace, part: 'trace' });
    const { node, preheats } = child(0);
    preheats.start('1', order);
    const progress = await ended(preheats, '1');
    expect(progress).toMatchObject({ state: 'done', doneBytes: progress.totalBytes });
    const held = node.store.blocksOf(digestOf(layer));
    const opened = await openLayer(memorySource(layer), codec);
    const wanted = new Set<number>();
    opened.body.visitRanges(at, 70_000, (offset, length) => {
      for (let i = Math.floor(offset / BLOCK); i * BLOCK < offset + length; i++) wanted.add(i);
    });
    // The head; the jump table, the trailer and the index at the end.
    const last = blockCount(layer.length) - 1;
    expect(held).toEqual(expect.arrayContaining([0, ...wanted, last]));
    expect(held.length).toBeLessThan(blockCount(layer.length) / 2);
  });

  it('says so when an image ships no trace, or is not what its digest says', async () => {
    const { preheats } = child(0);
    const none = orderOf(cluster.origin, [randomBytes(BLOCK)], { part: 'trace' });
    preheats.start('1', none);
    expect(await ended(preheats, '1')).toMatchObject({ state: 'failed', failure: 'no-trace' });
    const empty = orderOf(cluster.origin, [randomBytes(BLOCK)], { part: 'trace', trace: [] });
    preheats.start('2', empty);
    expect(await ended(preheats, '2')).toMatchObject({ state: 'failed', failure: 'no-trace' });
    preheats.start('3', { ...none, digest: digestOf(new Uint8Array(1)) });
    expect(await ended(preheats, '3')).toMatchObject({ state: 'failed', failure: 'image' });
    const nonsense = new TextEncoder().encode('{}');
    preheats.start('4', { ...none, manifest: nonsense, digest: digestOf(nonsense) });
    expect(await ended(preheats, '4')).toMatchObject({ state: 'failed', failure: 'image' });
  });

  it('refuses an image beyond the quota left by pins, before it reads any of it', async () => {
    const first = orderOf(cluster.origin, [randomBytes(4 * BLOCK)], { pin: true });
    const second = orderOf(cluster.origin, [randomBytes(4 * BLOCK)]);
    const { node, preheats } = child(0, 8 * BLOCK);
    preheats.start('1', first);
    expect(await ended(preheats, '1')).toMatchObject({ state: 'done' });
    const readBytes = cluster.origin.bytes;
    preheats.start('2', second);
    expect(await ended(preheats, '2')).toMatchObject({
      state: 'failed',
      failure: 'quota',
      doneBytes: 0,
    });
    expect(cluster.origin.bytes).toBe(readBytes);
    const pinned = node.store.usage().filter(({ keep }) => keep === 'pinned');
    for (const { digest } of pinned) await node.store.unpin(digest);
    // What is neither mounted nor pinned may go.
    preheats.start('3', second);
    expect(await ended(preheats, '3')).toMatchObject({ state: 'done' });
  });

  it('does without what the registry has not got, once it is told so', async () => {
    const [here, gone] = [randomBytes(3 * BLOCK), randomBytes(2 * BLOCK + 7)];
    const order = orderOf(cluster.origin, [here, gone]);
    const digest = digestOf(gone);
    cluster.origin.blobs.delete(digest);
    const { node, preheats } = child(0);
    preheats.start('1', order);
    await expect.poll(() => preheats.progress('1')?.stuck?.digest).toBe(digest);
    preheats.progress('1', [digest]);
    expect(await ended(preheats, '1')).toMatchObject({
      state: 'failed',
      failure: 'missing',
      reason: expect.stringContaining(digest) as string,
      doneBytes: sizeOf(order) - gone.length,
      totalBytes: sizeOf(order) - gone.length,
    });
    expect(node.store.blocksOf(digestOf(here))).toHaveLength(3);
    // A foreign layer is no part of what the registry should have.
    const json = JSON.parse(Buffer.from(order.manifest).toString()) as { layers: object[] };
    json.layers[1] = { ...json.layers[1], mediaType: 'application/vnd.x.foreign.diff.tar' };
    const manifest = new TextEncoder().encode(JSON.stringify(json));
    preheats.start('2', { ...order, manifest, digest: digestOf(manifest) });
    preheats.progress('2', [digest]);
    expect(await ended(preheats, '2')).toMatchObject({ state: 'done' });
  });

  it('fails where the registry gives other bytes than the digest names', async () => {
    const layer = new Uint8Array(randomBytes(3 * BLOCK));
    const order = orderOf(cluster.origin, [layer]);
    cluster.origin.wrongBlock = 1;
    const { preheats } = child(0);
    preheats.start('1', order);
    expect(await ended(preheats, '1')).toMatchObject({
      state: 'failed',
      failure: 'protocol',
      reason: expect.stringContaining(digestOf(layer)) as string,
    });
  });

  it('brings an image whose list of layers is null, as encoders of Go write it', async () => {
    const order = orderOf(cluster.origin, []);
    const json = JSON.parse(Buffer.from(order.manifest).toString()) as object;
    const { preheats } = child(0);
    for (const [id, layers] of Object.entries([null, undefined, []])) {
      const manifest = new TextEncoder().encode(JSON.stringify({ ...json, layers }));
      preheats.start(id, { ...order, manifest, digest: digestOf(manifest) });
      expect(await ended(preheats, id)).toMatchObject({ state: 'done', doneBytes: 2 });
    }
  });

  it('is cancelled while it waits and while it runs', async () => {
    const { origin } = cluster;
    const gate = Promise.withResolvers<void>();
    const asked = Promise.withResolvers<void>();
    const readInto = origin.readInto.bind(origin);
    origin.readInto = async (blob, offset, target) => {
      asked.resolve();
      await gate.promise;
      await readInto(blob, offset, target);
    };
    const { preheats } = child(0);
    const order = orderOf(origin, [randomBytes(5 * BLOCK)]);
    preheats.start('1', order);
    preheats.start('2', order);
    await asked.promise;
    expect(preheats.progress('1')).toMatchObject({ state: 'running', doneBytes: 0 });
    expect(preheats.progress('2')).toMatchObject({ state: 'waiting' });
    expect(preheats.cancel('2')).toMatchObject({ state: 'cancelled' });
    expect(preheats.cancel('1')).toMatchObject({ state: 'cancelled' });
    expect(preheats.cancel('9')).toBeUndefined();
    gate.resolve();
    preheats.start('3', order);
    expect(await ended(preheats, '3')).toMatchObject({ state: 'done' });
    expect(preheats.progress('1')).toMatchObject({ state: 'cancelled' });
  });

  it('stop() gives up what runs and what waits', async () => {
    const { origin } = cluster;
    origin.readInto = () => new Promise(() => {});
    const { preheats } = child(0);
    const order = orderOf(origin, [randomBytes(5 * BLOCK)]);
    preheats.start('1', order);
    preheats.start('2', order);
    await preheats.stop();
    expect(preheats.progress('1')).toMatchObject({ state: 'failed', failure: 'stopped' });
    expect(preheats.progress('2')).toMatchObject({ state: 'failed', failure: 'stopped' });
    expect(preheats.start('3', order)).toMatchObject({ state: 'failed', failure: 'stopped' });
  });
});

describe('HostPreheats retries', () => {
  /** An engine whose blocks fail in this way. */
  function failing(error: () => Error): {
    preheats: HostPreheats;
    clock: ManualClock;
    order: ReturnType<typeof orderOf>;
  } {
    const clock = new ManualClock({ sleeps: 'pass' });
    const order = orderOf({ blobs: new Map() } as never, [new Uint8Array(10)]);
    const engine = {
      read: () => Promise.reject(error()),
      readCached: () => undefined,
      addDigests: () => {},
      keep: () => Promise.reject(error()),
      wrong: { settled: () => Promise.resolve() },
      tree: { open: () => Promise.resolve(), close: () => {} },
    };
    const store = {
      has: () => false,
      usage: () => [],
      pin: () => Promise.resolve(),
      retain: () => {},
      release: () => {},
    };
    const parts = { codec, hash: new NodeHash(), clock, logger: silentLogger };
    const preheats = new HostPreheats({ ...parts, engine, store }, { quotaBytes: 2 ** 30 });
    return { preheats, clock, order };
  }

  it('tries a block for minutes, or 50 s where the store fails, and says why', async () => {
    for (const [error, failure, longMs] of [
      [() => new TransferError('late', { code: 'deadline', waitedMs: 1 }), 'unavailable', 180_000],
      [() => new BlockStoreError('full', { code: 'quota', quotaBytes: 1 }), 'quota', 50_000],
      [() => new BlockStoreError('full', { code: 'no-space' }), 'quota', 50_000],
      [() => new BlockStoreError('busy', { code: 'busy' }), 'store', 50_000],
    ] as const) {
      const { preheats, clock, order } = failing(error);
      preheats.start('1', order);
      expect(await ended(preheats, '1')).toMatchObject({ state: 'failed', failure });
      expect(clock.slept.slice(0, 2)).toEqual([100, 100]);
      const sleptMs = clock.slept.reduce((sum, ms) => sum + ms, 0);
      expect(sleptMs).toBeGreaterThanOrEqual(longMs);
      expect(sleptMs).toBeLessThan(longMs + 10_000);
      expect(Math.max(...clock.slept)).toBe(5000);
      await preheats.stop();
    }
  });

  it('turns away what comes when sixteen wait', async () => {
    const { preheats, order } = failing(() => new Error('never asked'));
    const states = Array.from({ length: 18 }, (_, i) => preheats.start(String(i), order).state);
    expect(states.filter((state) => state === 'failed')).toHaveLength(1);
    expect(preheats.progress('17')).toMatchObject({ failure: 'busy' });
    await preheats.stop();
  });
});
