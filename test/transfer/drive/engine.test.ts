import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { quarantineKey } from '../../../src/image/blob-key.ts';
import { BLOCK_SIZE_BYTES, blockIndex } from '../../../src/image/block.ts';
import { OriginError } from '../../../src/transfer/contracts/origin.ts';
import { bytesEqual, MIB } from '../../../src/util/bytes.ts';
import { defined } from '../../../src/util/assert.ts';
import { Cluster, ORIGIN, type Node } from '../../kit/engine-cluster.ts';

const demand = { kind: 'demand' } as const;

const PLACES_LIMIT = { timeout: 30_000, interval: 50 };

describe('TransferEngine', () => {
  let cluster: Cluster;
  beforeEach(() => {
    cluster = new Cluster();
  });
  afterEach(() => cluster.stop());

  it('brings right bytes to every host at once, each block from the registry once', async () => {
    await cluster.start({ roots: 1, children: 6 });
    const blob = cluster.origin.add(5 * BLOCK_SIZE_BYTES + 1000);
    const bytes = defined(cluster.origin.blobs.get(blob.digest), 'the blob');
    await Promise.all(
      cluster.children.map(async ({ engine }) => {
        await engine.tree.open([{ blob, origin: ORIGIN }]);
        const all = await engine.read(blob, 0, blob.sizeBytes, demand);
        expect(bytesEqual(all, bytes)).toBe(true);
      }),
    );
    expect(cluster.origin.bytes).toBe(blob.sizeBytes);
    // A host that was slow to get its place has read from the root without it.
    await vi.waitFor(() => {
      const depths = cluster.children.map(({ engine }) => engine.trees()[0]?.place?.path.length);
      expect(depths).not.toContain(undefined);
      expect(Math.max(...depths.map((depth) => depth ?? 0))).toBeGreaterThanOrEqual(2);
    }, PLACES_LIMIT);
  });

  it('reads any range across blocks', async () => {
    await cluster.start({ roots: 1, children: 2 });
    const blob = cluster.origin.add(3 * BLOCK_SIZE_BYTES + 17);
    const bytes = defined(cluster.origin.blobs.get(blob.digest), 'the blob');
    const { engine } = defined(cluster.children[1], 'a child');
    await engine.tree.open([{ blob, origin: ORIGIN }]);
    for (const [offset, length] of [
      [0, 1],
      [BLOCK_SIZE_BYTES - 3, 7],
      [BLOCK_SIZE_BYTES - 1, BLOCK_SIZE_BYTES + 2],
      [blob.sizeBytes - 1, 1],
      [blob.sizeBytes, 0],
    ] as const) {
      const range = await engine.read(blob, offset, length, demand);
      expect(bytesEqual(range, bytes.subarray(offset, offset + length))).toBe(true);
      const cached = defined(engine.readCached(blob, offset, length), 'in memory now');
      expect(bytesEqual(cached, range)).toBe(true);
    }
    await expect(engine.read(blob, blob.sizeBytes, 1, demand)).rejects.toMatchObject({
      code: 'range',
    });
  });

  it('says of a read that nobody answered what its sources failed with', async () => {
    await cluster.start({ roots: 1, children: 0 });
    const blob = cluster.origin.add(1000);
    const { engine } = defined(cluster.roots[0], 'a root');
    await engine.tree.open([{ blob, origin: ORIGIN }]);
    cluster.origin.readInto = () =>
      Promise.reject(new OriginError('connect ECONNREFUSED', { code: 'unavailable' }));
    const read = engine.read(blob, 0, 1, { ...demand, timeoutMs: 200 });
    await expect(read).rejects.toThrow(/no source answered.*; the registry: connect ECONNREFUSED/);
  });

  it('fails a read under another size than the known one, in memory or not', async () => {
    await cluster.start({ roots: 1, children: 1 });
    const blob = cluster.origin.add(2 * BLOCK_SIZE_BYTES + 100);
    const { engine } = defined(cluster.children[0], 'a child');
    await engine.tree.open([{ blob, origin: ORIGIN }]);
    await engine.read(blob, 0, blob.sizeBytes, demand);
    const longer = { ...blob, sizeBytes: blob.sizeBytes + 1000 };
    const tail = [2 * BLOCK_SIZE_BYTES, 600] as const;
    expect(engine.readCached(longer, ...tail)).toBeUndefined();
    await expect(engine.read(longer, ...tail, demand)).rejects.toMatchObject({
      detail: { code: 'size-differs', knownSizeBytes: blob.sizeBytes },
    });
  });

  it('believes no host that names an origin of its own for a blob', async () => {
    await cluster.start({ roots: 1, children: 1 });
    const blob = cluster.origin.add(1000);
    const { tree } = defined(cluster.roots[0], 'a root').engine;
    const child = defined(cluster.children[0], 'a child').engine.tree;
    const stranger = { registry: 'stranger.test', repository: 'app' };
    const known = [];
    for (const origin of [stranger, ORIGIN, stranger]) {
      await child.open([{ blob, origin }]);
      known.push(tree.origins.of(blob.digest));
      child.close([blob.digest]);
    }
    expect(known).toEqual([undefined, ORIGIN, ORIGIN]);
  });

  it('takes the origin of a blob in quarantine only with the key of just that source', async () => {
    await cluster.start({ roots: 1, children: 1 });
    const { digest } = cluster.origin.add(1000);
    const { tree } = defined(cluster.roots[0], 'a root').engine;
    const child = defined(cluster.children[0], 'a child').engine.tree;
    const origin = { registry: 'stranger.test', repository: 'app', content: digest };
    const key = quarantineKey(new NodeHash(), digest, origin);
    await child.open([{ blob: { digest, sizeBytes: 1000 }, origin }]);
    expect(tree.origins.of(digest)).toBeUndefined();
    await child.open([{ blob: { digest: key, sizeBytes: 1000 }, origin }]);
    expect(tree.origins.of(key)).toEqual(origin);
  });

  it('goes on when a parent goes, and when the owner goes and another root stands by', async () => {
    await cluster.start({ roots: 2, children: 5 });
    const blob = cluster.origin.add(12 * BLOCK_SIZE_BYTES);
    const bytes = defined(cluster.origin.blobs.get(blob.digest), 'the blob');
    for (const { engine } of cluster.children) await engine.tree.open([{ blob, origin: ORIGIN }]);
    const read = async (index: number): Promise<void> => {
      await Promise.all(
        cluster.children.slice(2).map(async ({ engine }) => {
          const offset = index * BLOCK_SIZE_BYTES;
          const block = await engine.read(blob, offset, BLOCK_SIZE_BYTES, demand);
          expect(bytesEqual(block, bytes.subarray(offset, offset + BLOCK_SIZE_BYTES))).toBe(true);
        }),
      );
    };
    await read(0);
    const first = read(1);
    await defined(cluster.children[0], 'a child').stop();
    await first;
    await read(2);
    const owner = defined(
      cluster.roots.find(({ engine }) => engine.trees().length > 0),
      'a root that owns the blob',
    );
    const second = read(3);
    await owner.stop();
    await second;
    for (let index = 4; index < 12; index++) await read(index);
    for (const { engine } of cluster.children.slice(2)) {
      expect(engine.failedReads).toBe(0);
      expect(engine.bytesBySource().fallback ?? 0).toBe(0);
    }
  });

  it('gets a lost block back from a host below it, without root and registry', async () => {
    await cluster.start({ roots: 1, children: 6 });
    const [blob, other] = [cluster.origin.add(BLOCK_SIZE_BYTES), cluster.origin.add(20 * MIB)];
    const bytes = defined(cluster.origin.blobs.get(blob.digest), 'the blob');
    for (const { engine } of cluster.children) await engine.tree.open([{ blob, origin: ORIGIN }]);
    const placeOf = ({ engine }: Node) => engine.trees()[0]?.place;
    await vi.waitFor(() => {
      for (const each of cluster.children) expect(placeOf(each)).toBeDefined();
    }, PLACES_LIMIT);
    const child = defined(
      cluster.children.find((each) => placeOf(each)?.path.length === 2),
      'a host below another one',
    );
    const isParent = ({ host }: Node): boolean => host.peer === placeOf(child)?.path[0]?.peer;
    const head = defined(cluster.children.find(isParent), 'its parent');
    await child.engine.read(blob, 0, blob.sizeBytes, demand);
    // Another blob takes the block's place in the memory of the head.
    await head.engine.tree.open([{ blob: other, origin: ORIGIN }]);
    await head.engine.read(other, 0, other.sizeBytes, demand);
    await head.store.drop(blob.digest, blockIndex(0));
    expect(head.engine.readCached(blob, 0, 1)).toBeUndefined();
    await defined(cluster.roots[0], 'the root').stop();
    cluster.origin.blobs.clear();
    for (const each of cluster.children) if (each !== child && each !== head) await each.stop();
    const again = await head.engine.read(blob, 0, blob.sizeBytes, demand);
    expect(bytesEqual(again, bytes)).toBe(true);
    expect(head.engine.failedReads).toBe(0);
  }, 60_000);

  it('ends a read that is aborted, and every read when it stops', async () => {
    await cluster.start({ roots: 1, children: 1 });
    const blob = cluster.origin.add(BLOCK_SIZE_BYTES);
    const { engine } = defined(cluster.children[0], 'a child');
    await engine.tree.open([{ blob, origin: ORIGIN }]);
    const abort = new AbortController();
    const read = engine.read(blob, 0, 1, { ...demand, signal: abort.signal });
    abort.abort();
    await expect(read).rejects.toMatchObject({ code: 'cancelled' });
    const last = engine.read(blob, 0, 1, demand);
    const ended = expect(last).rejects.toMatchObject({ code: 'cancelled' });
    await engine.stop();
    await ended;
    await expect(engine.read(blob, 0, 1, demand)).rejects.toMatchObject({ code: 'cancelled' });
  });
});
