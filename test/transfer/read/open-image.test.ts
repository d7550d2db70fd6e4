import { createHash } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BlockDigests, digestsAnnotations } from '../../../src/image/block-digests.ts';
import {
  BLOCK_SIZE_BYTES,
  blockCount,
  blocksOfRange,
  type BlobRef,
} from '../../../src/image/block.ts';
import { memorySource } from '../../../src/image/byte-source.ts';
import { parseDigest } from '../../../src/image/digest.ts';
import { openLayer } from '../../../src/image/layer.ts';
import { parseManifest, traceLayer, type ResolvedImage } from '../../../src/image/manifest.ts';
import { silentLogger, type Logger } from '../../../src/runtime/logger.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { openImage, type OpenedImage } from '../../../src/transfer/read/open-image.ts';
import { defined } from '../../../src/util/assert.ts';
import { bytesEqual } from '../../../src/util/bytes.ts';
import { digestOf, orderOf } from '../../preheat/kit/images.ts';
import { codec, makeLayer, sampleBytes } from '../../kit/layers.ts';
import { Cluster, ORIGIN, type Node } from '../../kit/engine-cluster.ts';

const hash = new NodeHash();
const demand = { kind: 'demand' } as const;
const signal = new AbortController().signal;
const OFFSET = 512;

/**
 * An image of one random layer, in the cluster's registry, with the digests of its blocks after
 * `OFFSET` bytes of another blob.
 */
function makeImage(cluster: Cluster): { image: ResolvedImage; blob: BlobRef; bytes: Uint8Array } {
  const blob = cluster.origin.add(2 * BLOCK_SIZE_BYTES);
  const bytes = defined(cluster.origin.blobs.get(blob.digest), 'the blob');
  const list = new Uint8Array(64);
  list.set(hash.blake3(bytes.subarray(0, BLOCK_SIZE_BYTES)), 0);
  list.set(hash.blake3(bytes.subarray(BLOCK_SIZE_BYTES)), 32);
  const digests = BlockDigests.make(blob, list);
  const holder = new Uint8Array(OFFSET + digests.bytes.length);
  holder.set(digests.bytes, OFFSET);
  const hex = createHash('sha256').update(holder).digest('hex');
  const holderDigest = defined(parseDigest(`sha256:${hex}`), 'a digest');
  cluster.origin.blobs.set(holderDigest, holder);
  const place = { holder: holderDigest, offset: OFFSET };
  const acceleration = { 'containerd.io/snapshot/overlaybd/acceleration-layer': 'yes' };
  const top = {
    mediaType: 'm',
    digest: holderDigest,
    size: holder.length,
    annotations: acceleration,
  };
  const annotations = digestsAnnotations(hash, digests, place);
  const layer = { mediaType: 'm', digest: blob.digest, size: blob.sizeBytes, annotations };
  const manifest = { mediaType: 'm', config: top, layers: [layer, top], annotations: {} };
  const image = { reference: 'app', digest: blob.digest, manifest, origin: ORIGIN };
  return { image, blob, bytes };
}

describe('openImage()', () => {
  let cluster: Cluster;
  beforeEach(async () => {
    cluster = new Cluster();
    await cluster.start({ roots: 1, children: 2 });
  });
  afterEach(() => cluster.stop());

  it('lets every block of the image be read', async () => {
    const { image, blob, bytes } = makeImage(cluster);
    for (const { engine } of cluster.children) {
      expect((await openImage({ engine, hash }, image, signal)).digests).toEqual([blob.digest]);
      const all = await engine.read(blob, 0, blob.sizeBytes, demand);
      expect(bytesEqual(all, bytes)).toBe(true);
    }
  });

  it('takes no block that the image does not vouch for, not even of a root', async () => {
    const { image, blob, bytes } = makeImage(cluster);
    const { engine } = defined(cluster.children[0], 'a child');
    await openImage({ engine, hash }, image, signal);
    const forged = bytes.slice();
    forged[BLOCK_SIZE_BYTES] = (forged[BLOCK_SIZE_BYTES] ?? 0) ^ 1;
    cluster.origin.blobs.set(blob.digest, forged);
    const first = await engine.read(blob, 0, BLOCK_SIZE_BYTES, demand);
    expect(bytesEqual(first, bytes.subarray(0, BLOCK_SIZE_BYTES))).toBe(true);
    const second = engine.read(blob, BLOCK_SIZE_BYTES, 1, { ...demand, timeoutMs: 500 });
    await expect(second).rejects.toMatchObject({ code: 'deadline' });
    // A host that goes by attestations takes it: that is what the digests are for.
    const other = defined(cluster.children[1], 'a child').engine;
    await other.tree.open([{ blob, origin: ORIGIN }]);
    const taken = await other.read(blob, BLOCK_SIZE_BYTES, 1, demand);
    expect(taken[0]).toBe(forged[BLOCK_SIZE_BYTES]);
  });

  it('has wrong bytes of the registry read elsewhere, where there is a choice', async () => {
    const { image, blob, bytes } = makeImage(cluster);
    const { engine } = defined(cluster.roots[0], 'a root');
    await openImage({ engine, hash }, image, signal);
    const forged = bytes.slice();
    forged[0] = (forged[0] ?? 0) ^ 1;
    cluster.origin.blobs.set(blob.digest, forged);
    let distrusted = 0;
    cluster.origin.onDistrust = () => {
      distrusted++;
      cluster.origin.blobs.set(blob.digest, bytes);
    };
    const all = await engine.read(blob, 0, blob.sizeBytes, demand);
    expect(bytesEqual(all, bytes)).toBe(true);
    expect(distrusted).toBe(1);
  });

  it('drops what it had taken on the word of a root when the image says otherwise', async () => {
    const { image, blob, bytes } = makeImage(cluster);
    const { engine } = defined(cluster.children[0], 'a child');
    const forged = bytes.slice();
    forged[0] = (forged[0] ?? 0) ^ 1;
    cluster.origin.blobs.set(blob.digest, forged);
    await engine.tree.open([{ blob, origin: ORIGIN }]);
    expect((await engine.read(blob, 0, 1, demand))[0]).toBe(forged[0]);
    await openImage({ engine, hash }, image, signal);
    const again = engine.read(blob, 0, 1, { ...demand, timeoutMs: 500 });
    await expect(again).rejects.toMatchObject({ code: 'deadline' });
  });

  it('rejects an image whose digests are not those that its manifest names', async () => {
    const { image } = makeImage(cluster);
    const { engine } = defined(cluster.children[0], 'a child');
    const top = defined(image.manifest.layers[1], 'the top layer');
    const holder = defined(cluster.origin.blobs.get(top.digest), 'the digests').slice();
    holder[OFFSET + 64] = (holder[OFFSET + 64] ?? 0) ^ 1;
    cluster.origin.blobs.set(top.digest, holder);
    await expect(openImage({ engine, hash }, image, signal)).rejects.toThrow(/their BLAKE3 is not/);
  });
});

describe('openImage() of an image with a trace', () => {
  let cluster: Cluster;
  let warnings: Record<string, unknown>[];
  beforeEach(async () => {
    warnings = [];
    cluster = new Cluster();
    await cluster.start({ roots: 1, children: 2 });
  });
  afterEach(() => cluster.stop());

  const logger: Logger = { ...silentLogger, warn: (fields) => void warnings.push(fields) };

  function open(node: Node, image: ResolvedImage): Promise<OpenedImage> {
    const { engine } = node;
    const trace = { codec, logger, order: engine.order.bind(engine) };
    return openImage({ engine, hash, trace }, image, signal);
  }

  /**
   * An image of one layer, and the blocks of it that the reads at these offsets of the device
   * touch.
   */
  async function tracedImage(offsets: readonly number[]) {
    const device = sampleBytes(8 * 2 ** 20, 3);
    const ranges = [{ offset: 0, bytes: device }];
    const layer = await makeLayer({ virtualSizeBytes: device.length, ranges });
    const trace = offsets.map(
      (offset) => ({ op: 'read', layer: 0, offset, length: 4096 }) as const,
    );
    const order = orderOf(cluster.origin, [layer], { trace });
    const manifest = parseManifest(order.manifest);
    const { body } = await openLayer(memorySource(layer), codec);
    const traced = new Set<number>();
    for (const offset of offsets) {
      body.visitRanges(offset, 4096, (at, length) => {
        for (const index of blocksOfRange(at, length)) traced.add(index);
      });
    }
    const image: ResolvedImage = { ...order, manifest };
    return { image, layer: digestOf(layer), traced, top: defined(traceLayer(manifest), 'a trace') };
  }

  it('prefetches what the trace names, and nothing else, before anybody reads', async () => {
    const { image, layer, traced } = await tracedImage([4 * 2 ** 20, 3 * 2 ** 20, 7 * 2 ** 20]);
    const middle = blockCount(defined(cluster.origin.blobs.get(layer), 'the layer').length) / 2;
    for (const node of cluster.children) {
      const opened = await open(node, image);
      await expect
        .poll(() => node.store.blocksOf(layer), { timeout: 20_000 })
        .toEqual(expect.arrayContaining([...traced]));
      // Beside the traced ones those that opening the layer reads.
      expect(node.store.blocksOf(layer).length).toBeLessThan(middle + traced.size);
      opened.close();
    }
    expect(warnings).toEqual([]);
  });

  it('opens it whatever is wrong with the trace, and says so', async () => {
    const { image, top } = await tracedImage([0]);
    const shipped = defined(cluster.origin.blobs.get(top.digest), 'the trace').slice();
    const [first, second] = cluster.children;
    shipped[512 + 40] = (shipped[512 + 40] ?? 0) ^ 1;
    cluster.origin.blobs.set(top.digest, shipped);
    expect((await open(defined(first, 'a child'), image)).digests).toHaveLength(1);
    await expect.poll(() => warnings).toHaveLength(1);
    expect(warnings[0]).toMatchObject({ reference: image.reference, error: /trace is damaged/ });
    const { image: other, top: gone } = await tracedImage([1]);
    cluster.origin.blobs.delete(gone.digest);
    expect((await open(defined(second, 'a child'), other)).digests).toHaveLength(1);
    await expect.poll(() => warnings.length, { timeout: 60_000 }).toBe(2);
  }, 90_000);

  it('does not wait for a trace that does not come', async () => {
    const { image, layer, top } = await tracedImage([0]);
    const { origin } = cluster;
    const readInto = origin.readInto.bind(origin);
    origin.readInto = (blob, offset, target) =>
      blob.digest === top.digest ? new Promise(() => {}) : readInto(blob, offset, target);
    const node = defined(cluster.children[0], 'a child');
    const opened = await open(node, image);
    const blob = { digest: layer, sizeBytes: defined(origin.blobs.get(layer), 'it').length };
    expect(await node.engine.read(blob, 0, 10, demand)).toHaveLength(10);
    opened.close();
    await expect.poll(() => node.engine.trees()).toEqual([]);
    expect(warnings).toEqual([]);
  });
});
