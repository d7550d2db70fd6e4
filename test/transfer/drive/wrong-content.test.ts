import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { attestBatch, isWhole } from '../../../src/image/attestation.ts';
import { BLOCK_SIZE_BYTES, blockIndex, type BlobRef } from '../../../src/image/block.ts';
import { quarantineKey } from '../../../src/image/blob-key.ts';
import { signNotice, type SignedClaim } from '../../../src/image/signed-claim.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { ed25519Signer } from '../../../src/runtime/node/signer.ts';
import type { WrongBlobReply } from '../../../src/tree/messages.ts';
import { defined } from '../../../src/util/assert.ts';
import { bytesEqual } from '../../../src/util/bytes.ts';
import { Cluster, ORIGIN, type Node } from '../../kit/engine-cluster.ts';

const demand = { kind: 'demand' } as const;
const LIMIT = { timeout: 30_000, interval: 50 };
const hash = new NodeHash();

/** Of eight stripes: all roots own some. */
const STRIPED_BYTES = 8 * 1024 * 1024;

describe('WrongContent', () => {
  let cluster: Cluster;
  beforeEach(() => {
    cluster = new Cluster();
  });
  afterEach(() => cluster.stop());

  const bytesOf = (blob: BlobRef): Uint8Array =>
    defined(cluster.origin.blobs.get(blob.digest), 'the blob');

  const open = async (blob: BlobRef, ...nodes: readonly Node[]): Promise<void> => {
    for (const { engine } of nodes) await engine.tree.open([{ blob, origin: ORIGIN }]);
  };

  const readAll = async ({ engine }: Node, blob: BlobRef): Promise<boolean> =>
    bytesEqual(await engine.read(blob, 0, blob.sizeBytes, demand), bytesOf(blob));

  /** A read of one block, right or not. */
  const isRight = async ({ engine }: Node, blob: BlobRef, index: number): Promise<boolean> => {
    const at = index * BLOCK_SIZE_BYTES;
    const block = await engine.read(blob, at, BLOCK_SIZE_BYTES, demand);
    return bytesEqual(block, bytesOf(blob).subarray(at, at + BLOCK_SIZE_BYTES));
  };

  /** Whole claims alone are kept, and something is. */
  const keepsWholeAlone = async ({ store }: Node, blob: BlobRef): Promise<boolean> => {
    const indices = store.blocksOf(blob.digest);
    for (const index of indices) {
      const block = defined(await store.get(blob, index), 'a kept block');
      block.payload.release();
      if (!isWhole(block.attestation)) return false;
    }
    return indices.length > 0;
  };

  const report = (
    from: Node,
    to: Node,
    blob: Pick<BlobRef, 'digest'>,
    claims: readonly SignedClaim[] = [],
  ): Promise<WrongBlobReply> => {
    const { signal } = new AbortController();
    return from.transport.call(to.host, 'wrong-blob', { digest: blob.digest, claims }, signal);
  };

  const node = (nodes: readonly Node[], index = 0): Node => defined(nodes[index], 'a node');

  /** The claim with which a node keeps a block. */
  const keptClaim = async (from: Node, blob: BlobRef, index: number): Promise<SignedClaim> => {
    const kept = defined(await from.store.get(blob, blockIndex(index)), 'a kept block');
    const blockDigest = hash.blake3(kept.payload.bytes);
    kept.payload.release();
    return { index: blockIndex(index), blockDigest, attestation: kept.attestation };
  };

  it('heals a cluster whose root was fed wrong bytes, once anybody has the whole', async () => {
    await cluster.start({ roots: 1, children: 2 });
    const [root, reader, keeper] = [
      node(cluster.roots),
      node(cluster.children),
      node(cluster.children, 1),
    ];
    const blob = cluster.origin.add(4 * BLOCK_SIZE_BYTES);
    await open(blob, reader, keeper);
    cluster.origin.wrongBlock = 0;
    expect(await isRight(keeper, blob, 0)).toBe(false);
    expect(await readAll(reader, blob)).toBe(false);
    cluster.origin.wrongBlock = undefined;
    await vi.waitFor(() => {
      expect([...root.distrust]).toEqual([blob.digest]);
      for (const { store } of [root, reader]) expect(store.blocksOf(blob.digest)).toEqual([]);
    }, LIMIT);
    expect(await readAll(reader, blob)).toBe(true);
    expect([...reader.distrust]).toEqual([blob.digest]);
    // Its wrong block is used until it hears of the distrust: by the first new block.
    expect(await isRight(keeper, blob, 3)).toBe(true);
    expect([...keeper.distrust]).toEqual([blob.digest]);
    expect(await isRight(keeper, blob, 0)).toBe(true);
    await vi.waitFor(async () => {
      for (const each of [reader, keeper]) expect(await keepsWholeAlone(each, blob)).toBe(true);
    }, LIMIT);
    for (const { engine } of [reader, keeper]) {
      expect(engine.bytesBySource().fallback ?? 0).toBe(0);
      expect(engine.failedReads).toBe(0);
    }
  });

  it('gets the right bytes past a parent that replays what a root once attested', async () => {
    await cluster.start({ roots: 1, children: 2 });
    const [root, replayer, reader] = [
      node(cluster.roots),
      node(cluster.children),
      node(cluster.children, 1),
    ];
    const blob = cluster.origin.add(3 * BLOCK_SIZE_BYTES);
    await open(blob, replayer);
    cluster.origin.wrongBlock = 1;
    expect(await isRight(replayer, blob, 1)).toBe(false);
    cluster.origin.wrongBlock = undefined;
    await open(blob, reader);
    // The root has found out; the replayer never asks it for anything again.
    root.engine.wrong.takeNotice(blob.digest, signedBy(root, blob));
    reader.engine.wrong.takeNotice(blob.digest, signedBy(root, blob));
    expect(await isRight(reader, blob, 1)).toBe(true);
    expect(reader.engine.bytesBySource().fallback ?? 0).toBe(0);
    expect([...replayer.distrust]).toEqual([]);
    expect(await isRight(replayer, blob, 1)).toBe(false);
  });

  /** A notice of this root; its engine does not give one before it distrusts the blob. */
  function signedBy(root: Node, blob: BlobRef): SignedClaim {
    return signNotice({ hash, signer: root.signer }, blob.digest);
  }

  it('believes no notice but that of a root, also when a host passes it on', async () => {
    await cluster.start({ roots: 1, children: 1 });
    const [root, child] = [node(cluster.roots), node(cluster.children)];
    const [blob, other] = [cluster.origin.add(1000), cluster.origin.add(1000)];
    const stranger = ed25519Signer(new Uint8Array(32).fill(9));
    for (const notice of [
      signNotice({ hash, signer: stranger }, blob.digest),
      signedBy(root, other),
    ]) {
      child.engine.wrong.takeNotice(blob.digest, notice);
      expect(await report(child, root, blob, [notice])).toEqual({});
    }
    expect(await report(child, root, blob, [signedBy(child, blob)])).toEqual({});
    expect([...child.distrust, ...root.distrust]).toEqual([]);
  });

  it('reads a right blob at most once for all that hostile hosts report of it', async () => {
    await cluster.start({ roots: 1, children: 2 });
    const [root, reader, hostile] = [
      node(cluster.roots),
      node(cluster.children),
      node(cluster.children, 1),
    ];
    const [blob, other] = [
      cluster.origin.add(5 * BLOCK_SIZE_BYTES),
      cluster.origin.add(2 * BLOCK_SIZE_BYTES),
    ];
    await open(blob, reader, hostile);
    await open(other, hostile);
    await isRight(hostile, blob, 0);
    await isRight(hostile, other, 0);
    const weak = await keptClaim(hostile, blob, 0);
    const wholeBit = weak.attestation.signature.slice();
    wholeBit[66] = 1;
    const own = { blob: blob.digest, index: blockIndex(1), blockDigest: new Uint8Array(32) };
    const signed = attestBatch({ hash, signer: hostile.signer }, [{ ...own, whole: true }]);
    const lies: readonly SignedClaim[] = [
      weak,
      await keptClaim(hostile, other, 0),
      { ...weak, blockDigest: new Uint8Array(32) },
      { ...weak, index: blockIndex(2 ** 32 - 1) },
      { ...weak, attestation: { ...weak.attestation, signature: wholeBit } },
      { ...own, attestation: defined(signed[0], 'an attestation') },
    ];
    const before = cluster.origin.bytes;
    for (const lie of [...lies, ...lies]) {
      expect(await report(hostile, root, blob, [lie])).toEqual({});
      expect(await report(reader, root, blob)).toEqual({});
    }
    // What the root held came from its store.
    await vi.waitFor(() => expect(cluster.origin.bytes - before).toBe(4 * BLOCK_SIZE_BYTES), LIMIT);
    for (const lie of lies) expect(await report(hostile, root, blob, [lie])).toEqual({});
    expect(cluster.origin.bytes - before).toBe(4 * BLOCK_SIZE_BYTES);
    expect([...root.distrust]).toEqual([]);
    expect(await readAll(reader, blob)).toBe(true);
    expect(await keepsWholeAlone(reader, blob)).toBe(false);
  });

  it('checks no size that a host named, and nothing that the root does not know', async () => {
    await cluster.start({ roots: 1, children: 1 });
    const [root, hostile] = [node(cluster.roots), node(cluster.children)];
    const blob = cluster.origin.add(4 * BLOCK_SIZE_BYTES);
    expect(await report(hostile, root, blob)).toEqual({});
    const stat = vi.spyOn(cluster.origin, 'stat');
    const shorter = { ...blob, sizeBytes: blob.sizeBytes - BLOCK_SIZE_BYTES };
    await open(shorter, hostile);
    await hostile.engine.read(shorter, 0, shorter.sizeBytes, demand);
    const before = cluster.origin.bytes;
    expect(await report(hostile, root, blob)).toEqual({});
    // Once for the report, once for what the root read: the whole of it is wrong, but no proof.
    await vi.waitFor(() => expect(stat).toHaveBeenCalledTimes(2), LIMIT);
    await vi.waitFor(() => expect(root.store.blocksOf(blob.digest)).toEqual([]), LIMIT);
    expect(await report(hostile, root, blob)).toEqual({});
    expect(cluster.origin.bytes).toBe(before);
    expect([...root.distrust, ...hostile.distrust]).toEqual([]);
  });

  it('distrusts a right blob when a host shows that a root attested a wrong block', async () => {
    await cluster.start({ roots: 1, children: 1 });
    const [root, child] = [node(cluster.roots), node(cluster.children)];
    const blob = cluster.origin.add(3 * BLOCK_SIZE_BYTES);
    await open(blob, child);
    cluster.origin.wrongBlock = 1;
    expect(await isRight(child, blob, 1)).toBe(false);
    cluster.origin.wrongBlock = undefined;
    const evidence = await keptClaim(child, blob, 1);
    // The root has evicted it since: what it finds in its store and at the registry is right.
    await root.store.drop(blob.digest, blockIndex(1));
    await report(child, root, blob, [evidence]);
    await vi.waitFor(() => expect([...root.distrust]).toEqual([blob.digest]), LIMIT);
    const { notice } = await report(child, root, blob);
    child.engine.wrong.takeNotice(blob.digest, defined(notice, 'the word of the root'));
    expect(await readAll(child, blob)).toBe(true);
  });

  it('tells hosts that join the trees of a distrusted blob, or report to them', async () => {
    await cluster.start({ roots: 1, children: 2, reportIntervalMs: 200 });
    const [root, member, late] = [
      node(cluster.roots),
      node(cluster.children),
      node(cluster.children, 1),
    ];
    const blob = cluster.origin.add(3 * BLOCK_SIZE_BYTES);
    await open(blob, member, late);
    for (const each of [member, late]) await isRight(each, blob, 0);
    late.engine.tree.close([blob.digest]);
    root.engine.wrong.takeNotice(blob.digest, signedBy(root, blob));
    await vi.waitFor(() => {
      expect([...member.distrust]).toEqual([blob.digest]);
      expect(member.store.blocksOf(blob.digest)).toEqual([]);
    }, LIMIT);
    expect([...late.distrust]).toEqual([]);
    await open(blob, late);
    expect([...late.distrust]).toEqual([blob.digest]);
  });

  it('makes all owners of a blob distrust it when one of them does', async () => {
    await cluster.start({ roots: 2, children: 1 });
    const child = node(cluster.children);
    const blob = cluster.origin.add(STRIPED_BYTES);
    await open(blob, child);
    cluster.origin.wrongBlock = 2;
    expect(await readAll(child, blob)).toBe(false);
    cluster.origin.wrongBlock = undefined;
    await vi.waitFor(() => {
      for (const { distrust } of cluster.roots) expect([...distrust]).toEqual([blob.digest]);
      expect(child.store.blocksOf(blob.digest)).toEqual([]);
    }, LIMIT);
    expect(await readAll(child, blob)).toBe(true);
    expect([...child.distrust]).toEqual([blob.digest]);
    expect(await keepsWholeAlone(child, blob)).toBe(true);
  });

  it('is told to a root that takes a distrusted blob over, by the hosts that want it', async () => {
    await cluster.start({ roots: 2, children: 1 });
    const child = node(cluster.children);
    const blob = cluster.origin.add(4 * BLOCK_SIZE_BYTES);
    await open(blob, child);
    await isRight(child, blob, 0);
    const owns = ({ engine }: Node): boolean => engine.trees().length > 0;
    const owner = defined(cluster.roots.find(owns), 'the owner');
    const next = defined(
      cluster.roots.find((root) => root !== owner),
      'the other root',
    );
    child.engine.wrong.takeNotice(blob.digest, signedBy(owner, blob));
    await owner.stop();
    expect([...next.distrust]).toEqual([]);
    expect(await isRight(child, blob, 1)).toBe(true);
    await vi.waitFor(() => expect([...next.distrust]).toEqual([blob.digest]), LIMIT);
    expect(await readAll(child, blob)).toBe(true);
  });

  it('attests nothing of a distrusted blob while its registry goes on being wrong', async () => {
    await cluster.start({ roots: 1, children: 1 });
    const [root, child] = [node(cluster.roots), node(cluster.children)];
    const blob = cluster.origin.add(3 * BLOCK_SIZE_BYTES);
    await open(blob, child);
    cluster.origin.wrongBlock = 1;
    root.engine.wrong.takeNotice(blob.digest, signedBy(root, blob));
    const before = cluster.origin.bytes;
    const read = child.engine.read(blob, 0, 10, { ...demand, timeoutMs: 1500 });
    await expect(read.then(() => child.store.blocksOf(blob.digest))).resolves.toEqual([]);
    expect(root.store.blocksOf(blob.digest)).toEqual([]);
    // Read whole once, and once by the child for itself alone.
    const ownBytes = child.engine.bytesBySource().fallback ?? 0;
    expect(cluster.origin.bytes - before - ownBytes).toBe(blob.sizeBytes);
  });

  it('drops a wrong blob in quarantine, and distrusts neither key nor digest', async () => {
    await cluster.start({ roots: 1, children: 1 });
    const [root, child] = [node(cluster.roots), node(cluster.children)];
    const real = cluster.origin.add(2 * BLOCK_SIZE_BYTES);
    const origin = { registry: 'stranger.test', repository: 'app', content: real.digest };
    const key = quarantineKey(hash, real.digest, origin);
    const bytes = bytesOf(real).map((byte) => byte ^ 1);
    cluster.origin.blobs.set(key, bytes);
    const blob = { digest: key, sizeBytes: real.sizeBytes };
    await child.engine.tree.open([{ blob, origin }]);
    await child.engine.read(blob, 0, blob.sizeBytes, demand);
    await vi.waitFor(() => {
      for (const { store } of [root, child]) expect(store.blocksOf(key)).toEqual([]);
    }, LIMIT);
    expect([...root.distrust, ...child.distrust]).toEqual([]);
    cluster.origin.blobs.set(key, bytesOf(real));
    expect(await readAll(child, blob)).toBe(true);
  });
});
