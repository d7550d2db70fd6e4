import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BLOCK_SIZE_BYTES } from '../../../src/image/block.ts';
import type { BlobReader } from '../../../src/transfer/contracts/blob-reader.ts';
import { defined } from '../../../src/util/assert.ts';
import { Cluster, type Node } from '../../kit/engine-cluster.ts';
import { sampleBytes } from '../../kit/layers.ts';
import { addImage, ManifestTwin, SocketRig, startLink } from './kit/link-rig.ts';

const signal = new AbortController().signal;
const DEMAND = { kind: 'demand' } as const;

let cluster: Cluster;
let node: Node;
beforeAll(async () => {
  cluster = new Cluster();
  await cluster.start({ roots: 1, children: 1 });
  node = defined(cluster.children[0], 'a child');
});
afterAll(() => cluster.stop());

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
});
