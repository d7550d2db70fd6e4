import { describe, expect, it, onTestFinished } from 'vitest';
import { BlockDigests } from '../../../src/image/block-digests.ts';
import { blockCount, blockIndex, BLOCK_SIZE_BYTES } from '../../../src/image/block.ts';
import { READS_IN_FLIGHT_MAX } from '../../../src/device/link/limits.ts';
import { BlobError } from '../../../src/edge/http/blob-error.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { OriginError } from '../../../src/transfer/contracts/origin.ts';
import type { BlobReader } from '../../../src/transfer/contracts/blob-reader.ts';
import { defined } from '../../../src/util/assert.ts';
import { ORIGIN } from '../../kit/engine-cluster.ts';
import { sampleBytes } from '../../kit/layers.ts';
import {
  addImage,
  GatedReader,
  ManifestTwin,
  SocketRig,
  startLink,
  startNode,
} from './kit/link-rig.ts';

const signal = new AbortController().signal;
const DEMAND = { kind: 'demand' } as const;

const { cluster, node } = await startNode();

let seed = 0;
function newImage(manifests: ManifestTwin, layerCount = 1) {
  const layers = Array.from({ length: layerCount }, () => sampleBytes(1_500_000, ++seed));
  return { image: addImage(cluster, manifests, layers), layers };
}

describe('AgentLink', () => {
  it('AgentLink.read() gives the bytes of the blob', async () => {
    const manifests = new ManifestTwin();
    const { image, layers } = newImage(manifests, 2);
    const rig = new SocketRig(node, manifests);
    await rig.start();
    const link = startLink(rig.path);
    const opened = await link.open(image, signal);
    expect(opened.layers).toEqual(image.layers);
    expect(opened.manifest).toEqual(manifests.kept.get('1'));
    for (const [i, blob] of image.layers.entries()) {
      const bytes = await link.read(blob, 0, blob.sizeBytes, DEMAND);
      expect(Buffer.compare(bytes, defined(layers[i], 'a layer'))).toBe(0);
    }
    const [blob] = image.layers;
    const at = BLOCK_SIZE_BYTES - 10;
    const cached = link.readCached(defined(blob, 'a layer'), at, 20);
    expect(cached).toEqual(defined(layers[0], 'a layer').subarray(at, at + 20));
    opened.close();
    await expect.poll(() => node.engine.trees()).toEqual([]);
  });

  it('AgentLink.read() asks once for all pieces of a block', async () => {
    const manifests = new ManifestTwin();
    const { image } = newImage(manifests);
    const rig = new SocketRig(node, manifests);
    const asked: number[] = [];
    const reader: Pick<BlobReader, 'read'> = {
      read: (blob, offset, length, options) => {
        asked.push(offset);
        return node.engine.read(blob, offset, length, options);
      },
    };
    await rig.start(reader);
    const link = startLink(rig.path);
    await link.open(image, signal);
    const blob = defined(image.layers[0], 'a layer');
    const offsets = [0, 100, 5_000, BLOCK_SIZE_BYTES - 4_096];
    await Promise.all(offsets.map((offset) => link.read(blob, offset, 4_096, DEMAND)));
    await link.read(blob, 77, 10, DEMAND);
    expect(asked).toEqual([0]);
  });

  it('AgentLink.open() opens the layers alone when there is no manifest', async () => {
    const manifests = new ManifestTwin();
    const { image, layers } = newImage(manifests);
    const rig = new SocketRig(node, manifests);
    await rig.start();
    const link = startLink(rig.path);
    const blob = defined(image.layers[0], 'a layer');
    await expect(
      link.open({ reference: 'registry.test/app:gone', layers: [blob] }, signal),
    ).rejects.toMatchObject({ code: 'not-found' });
    const other = new ManifestTwin();
    newImage(other);
    manifests.kept.set('moved', defined(other.kept.get('1'), 'a manifest'));
    const opened = await link.open(
      { reference: 'registry.test/app:moved', layers: [blob] },
      signal,
    );
    expect(opened.manifest).toBeUndefined();
    const bytes = await link.read(blob, 0, blob.sizeBytes, DEMAND);
    expect(Buffer.compare(bytes, defined(layers[0], 'a layer'))).toBe(0);
  });

  it('AgentLink.read() outlasts restarts of the agent', async () => {
    const manifests = new ManifestTwin();
    const { image, layers } = newImage(manifests);
    const rig = new SocketRig(node, manifests);
    await rig.start();
    const link = startLink(rig.path, { blocksKeptMax: 1 });
    await link.open(image, signal);
    const blob = defined(image.layers[0], 'a layer');
    const wanted = Buffer.from(defined(layers[0], 'a layer'));
    const stop = new AbortController();
    const reader = async (): Promise<number> => {
      for (let count = 0; ; count++) {
        if (stop.signal.aborted) return count;
        const bytes = await link.read(blob, 0, blob.sizeBytes, DEMAND);
        expect(wanted.compare(bytes)).toBe(0);
      }
    };
    const readers = [reader(), reader()];
    for (let i = 0; i < 5; i++) {
      await rig.stop();
      await rig.start();
      await link.read(blob, 0, 1, DEMAND);
    }
    stop.abort();
    for (const count of await Promise.all(readers)) expect(count).toBeGreaterThan(0);
  });

  it('AgentLink.read() fails at its deadline, with agent, blob, and what was tried', async () => {
    const manifests = new ManifestTwin();
    const { image } = newImage(manifests);
    const rig = new SocketRig(node, manifests);
    const reader = new GatedReader(node);
    await rig.start(reader);
    const link = startLink(rig.path, { readTimeoutMs: 700 });
    await link.open(image, signal);
    const blob = defined(image.layers[0], 'a layer');
    const stalled = link.read(blob, 0, 10, DEMAND);
    await expect(stalled).rejects.toMatchObject({ code: 'unreachable' });
    const names = [`block 0 of ${blob.digest}`, rig.path, 'it was asked and has not answered'];
    for (const name of names) await expect(stalled).rejects.toThrow(name);
    await expect.poll(() => reader.asked[0]?.signal.aborted).toBe(true);
    await rig.stop();
    const gone = link.read(blob, 0, 10, DEMAND);
    await expect(gone).rejects.toThrow(/there is no connection: connect ENOENT/);
    await rig.start();
    expect(await link.read(blob, 0, 0, DEMAND)).toEqual(new Uint8Array());
    expect((await link.read(blob, 0, 10, DEMAND)).length).toBe(10);
  });

  it('AgentLink.read() takes back what nobody waits for any more', async () => {
    const manifests = new ManifestTwin();
    const { image } = newImage(manifests);
    const rig = new SocketRig(node, manifests);
    const reader = new GatedReader(node);
    await rig.start(reader);
    const link = startLink(rig.path);
    await link.open(image, signal);
    const blob = defined(image.layers[0], 'a layer');
    const [one, two] = [new AbortController(), new AbortController()];
    const first = link.read(blob, 0, 10, { ...DEMAND, signal: one.signal });
    const second = link.read(blob, 50, 10, { ...DEMAND, signal: two.signal });
    await expect.poll(() => reader.asked.length).toBe(1);
    one.abort();
    await expect(first).rejects.toMatchObject({ code: 'cancelled' });
    expect(reader.asked[0]?.signal.aborted).toBe(false);
    two.abort();
    await expect(second).rejects.toMatchObject({ code: 'cancelled' });
    await expect.poll(() => reader.asked[0]?.signal.aborted).toBe(true);
    reader.open();
    expect((await link.read(blob, 0, 10, DEMAND)).length).toBe(10);
  });

  it('AgentLink.read() for demand does not wait for prefetches', async () => {
    const manifests = new ManifestTwin();
    const { image } = newImage(manifests, 20);
    const rig = new SocketRig(node, manifests);
    const reader = new GatedReader(node);
    reader.passes = ({ kind }) => kind === 'demand';
    await rig.start(reader);
    const link = startLink(rig.path);
    await link.open(image, signal);
    const prefetches = image.layers.map((blob) => link.read(blob, 0, 10, { kind: 'prefetch' }));
    await expect.poll(() => reader.asked.length).toBe(READS_IN_FLIGHT_MAX.bulk);
    // One of them becomes a demand read; another block was never asked.
    const [blob] = image.layers;
    const demanded = defined(blob, 'a layer');
    expect((await link.read(demanded, 20, 10, DEMAND)).length).toBe(10);
    expect((await link.read(demanded, BLOCK_SIZE_BYTES, 10, DEMAND)).length).toBe(10);
    await prefetches[0];
    reader.open();
    await Promise.all(prefetches);
  });

  it('AgentLink.read() keeps to what may be in flight, and loses no read', async () => {
    const manifests = new ManifestTwin();
    const { image, layers } = newImage(manifests, 12);
    const rig = new SocketRig(node, manifests);
    const reader = new GatedReader(node);
    await rig.start(reader);
    const link = startLink(rig.path);
    await link.open(image, signal);
    const whole = image.layers.map((blob) => link.read(blob, 0, blob.sizeBytes, DEMAND));
    await expect.poll(() => reader.asked.length).toBe(READS_IN_FLIGHT_MAX.demand);
    reader.open();
    for (const [i, bytes] of (await Promise.all(whole)).entries()) {
      expect(Buffer.compare(bytes, defined(layers[i], 'a layer'))).toBe(0);
    }
    const blockCount = 12 * Math.ceil(1_500_000 / BLOCK_SIZE_BYTES);
    expect(reader.asked.length).toBe(blockCount);
  });
});

describe('AgentLink.open()', () => {
  async function startRig() {
    const manifests = new ManifestTwin();
    const { image, layers } = newImage(manifests, 2);
    const rig = new SocketRig(node, manifests);
    await rig.start();
    return { manifests, image, layers, rig, link: startLink(rig.path) };
  }

  it('opens a part of an image, from the bottom', async () => {
    const { image, link } = await startRig();
    const part = { ...image, layers: image.layers.slice(0, 1) };
    const opened = await link.open(part, signal);
    expect(opened.layers).toEqual(part.layers);
    await expect.poll(() => new Set(node.engine.trees().map(({ digest }) => digest)).size).toBe(1);
  });

  it('opens all layers of a reference alone', async () => {
    const { image, link } = await startRig();
    const opened = await link.open({ reference: 'registry.test/app:1', layers: [] }, signal);
    expect(opened.layers).toEqual(image.layers);
  });

  it.each([
    ['not-found', new BlobError('gone', { code: 'not-found' })],
    ['not-authorized', new BlobError('no', { code: 'denied' })],
    ['damaged', new BlobError('bad', { code: 'bad-content' })],
  ] as const)('fails at once with %s when the registry says so', async (code, refusal) => {
    const { image, link, manifests } = await startRig();
    manifests.kept.clear();
    manifests.refusal = refusal;
    await expect(link.open(image, signal)).rejects.toMatchObject({
      code,
      message: expect.stringContaining(refusal.message),
    });
  });

  it('fails at once with invalid when the layers are not those of the manifest', async () => {
    const { image, link } = await startRig();
    const others = { ...image, layers: image.layers.toReversed() };
    await expect(link.open(others, signal)).rejects.toMatchObject({ code: 'invalid' });
    const nonsense = { reference: 'registry.test/APP', layers: image.layers };
    await expect(link.open(nonsense, signal)).rejects.toMatchObject({ code: 'invalid' });
  });

  it('fails at once with not-found when the registry lacks a layer', async () => {
    const { image, link } = await startRig();
    for (const { digest } of image.layers) cluster.origin.blobs.delete(digest);
    await expect(link.open(image, signal)).rejects.toMatchObject({ code: 'not-found' });
    await expect.poll(() => node.engine.trees()).toEqual([]);
  });

  it('fails at its deadline with unreachable when nobody answers', async () => {
    const { link, manifests } = await startRig();
    manifests.refusal = new BlobError('the registry is away', { code: 'unavailable' });
    const image = { reference: 'registry.test/app:9', layers: [] };
    const opened = link.open(image, signal, { timeoutMs: 600 });
    await expect(opened).rejects.toMatchObject({ code: 'unreachable' });
    await expect(opened).rejects.toThrow(/the agent failed .* the registry is away/);
    // It comes back in time.
    const late = link.open({ ...image, reference: 'registry.test/app:8' }, signal);
    manifests.kept.set('8', defined(manifests.kept.get('1'), 'a manifest'));
    expect((await late).layers.length).toBe(2);
  });

  it('fails at its deadline with unreachable when no layer comes', async () => {
    const { image, link } = await startRig();
    const { readInto } = cluster.origin;
    const away = new OriginError('the storage is away', { code: 'unavailable' });
    cluster.origin.readInto = () => Promise.reject(away);
    onTestFinished(() => {
      cluster.origin.readInto = readInto;
    });
    const opened = link.open(image, signal, { timeoutMs: 1_500 });
    await expect(opened).rejects.toMatchObject({ code: 'unreachable' });
    await expect.poll(() => node.engine.trees()).toEqual([]);
  });

  it('goes by what is here when the registry is away', async () => {
    const { image, link, manifests, layers } = await startRig();
    const first = await link.open(image, signal);
    const [blob] = image.layers;
    await link.read(defined(blob, 'a layer'), 0, 1_500_000, DEMAND);
    first.close();
    manifests.kept.clear();
    manifests.refusal = new BlobError('the registry is away', { code: 'unavailable' });
    const again = await link.open(image, signal);
    expect(again.manifest).toBeUndefined();
    const bytes = await link.read(defined(blob, 'a layer'), 0, 1_500_000, DEMAND);
    expect(Buffer.compare(bytes, defined(layers[0], 'a layer'))).toBe(0);
  });

  it('leaves no block in the store that the image says is wrong', async () => {
    const { image, layers, link } = await startRig();
    const blob = defined(image.layers[0], 'a layer');
    const right = defined(layers[0], 'its bytes');
    const forged = right.slice();
    forged[0] = (forged[0] ?? 0) ^ 1;
    const { engine, store } = node;
    cluster.origin.blobs.set(blob.digest, forged);
    await engine.tree.open([{ blob, origin: ORIGIN }]);
    // Not the whole blob, whose sha256 would tell.
    await engine.read(blob, 0, 2 * BLOCK_SIZE_BYTES, DEMAND);
    await expect.poll(() => store.blocksOf(blob.digest)).toEqual([0, 1]);
    cluster.origin.blobs.set(blob.digest, right);
    const hash = new NodeHash();
    const digests = Array.from({ length: blockCount(blob.sizeBytes) }, (_, i) =>
      hash.blake3(right.subarray(i * BLOCK_SIZE_BYTES, (i + 1) * BLOCK_SIZE_BYTES)),
    );
    engine.addDigests(blob, BlockDigests.make(blob, Buffer.concat(digests)));
    const opened = await link.open(image, signal);
    expect(store.has(blob.digest, blockIndex(0))).toBe(false);
    expect(store.has(blob.digest, blockIndex(1))).toBe(true);
    opened.close();
    engine.tree.close([blob.digest]);
    await expect.poll(() => engine.trees()).toEqual([]);
  });

  it('ends with its signal, and leaves nothing open', async () => {
    const { image, link, manifests } = await startRig();
    const digest = defined(image.manifestDigest, 'a digest');
    const bytes = defined(manifests.kept.get(digest), 'a manifest');
    manifests.kept.clear();
    const gate = Promise.withResolvers<void>();
    manifests.get = async () => {
      await gate.promise;
      return { digest, mediaType: 'm', bytes };
    };
    const ending = new AbortController();
    const opened = link.open(image, ending.signal);
    ending.abort();
    await expect(opened).rejects.toMatchObject({ code: 'cancelled' });
    gate.resolve();
    await expect.poll(() => node.engine.trees()).toEqual([]);
  });

  it('waits for the agent with an image that is mounted, and asks nobody about it', async () => {
    const manifests = new ManifestTwin();
    const { image, layers } = newImage(manifests);
    manifests.kept.clear();
    const rig = new SocketRig(node, manifests);
    const link = startLink(rig.path);
    const blob = defined(image.layers[0], 'a layer');
    const opening = link.open(image, signal, { isMounted: true });
    link.settled();
    const read = link.read(blob, 0, blob.sizeBytes, DEMAND);
    await rig.start();
    const opened = await opening;
    expect(opened.manifest).toBeUndefined();
    expect(Buffer.compare(await read, defined(layers[0], 'a layer'))).toBe(0);
    const ending = new AbortController();
    await rig.stop();
    const other = link.open(image, ending.signal, { isMounted: true });
    ending.abort();
    await expect(other).rejects.toMatchObject({ code: 'cancelled' });
  });

  it('keeps the blobs mounted over restarts of the agent and of the device process', async () => {
    const { image, link, rig } = await startRig();
    const digests = image.layers.map(({ digest }) => digest).sort();
    const mounted = (): readonly string[] => [...rig.leases.digests].sort();
    await link.open(image, signal);
    expect(mounted()).toEqual(digests);
    await rig.stop();
    await rig.start();
    expect(mounted()).toEqual(digests);
    await expect.poll(() => node.engine.trees().length).toBeGreaterThan(0);
    // The device process ends, and the next one says what it has open.
    link.stop();
    const next = startLink(rig.path);
    const opened = await next.open({ ...image, layers: image.layers.slice(0, 1) }, signal);
    expect(mounted()).toEqual(digests);
    next.settled();
    await expect.poll(mounted).toEqual(opened.layers.map(({ digest }) => digest));
    opened.close();
    await expect.poll(mounted).toEqual([]);
  });
});
