import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ImageMounts } from '../../../src/agent/admin/image-mounts.ts';
import type { DeviceService } from '../../../src/device/device-service.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { defined } from '../../../src/util/assert.ts';
import { digestOf, orderOf } from '../../preheat/kit/images.ts';
import { codec, makeLayer, sampleBytes } from '../../kit/layers.ts';
import { Cluster, type Node } from '../../kit/engine-cluster.ts';

const signal = new AbortController().signal;

describe('ImageMounts', () => {
  let cluster: Cluster;
  beforeEach(async () => {
    cluster = new Cluster();
    await cluster.start({ roots: 1, children: 1 });
  });
  afterEach(() => cluster.stop());

  /** Mounts that read nothing. */
  function mountsOf({ engine, store }: Node, mount: () => Promise<object>): ImageMounts {
    const devices = {
      mount,
      unmount: async () => {},
      list: () => [],
      requireAllowed: () => {},
    } as unknown as DeviceService;
    const parts = { engine, devices, store, codec, hash: new NodeHash(), logger: silentLogger };
    return new ImageMounts(parts);
  }

  /** An image in the registry whose trace names the middle of its one layer. */
  async function tracedImage(): Promise<{ reference: string; layer: Uint8Array }> {
    const device = sampleBytes(8 * 2 ** 20, 3);
    const ranges = [{ offset: 0, bytes: device }];
    const layer = await makeLayer({ virtualSizeBytes: device.length, ranges });
    const trace = [{ op: 'read', layer: 0, offset: 4 * 2 ** 20, length: 4096 }] as const;
    const { manifest, origin, reference } = orderOf(cluster.origin, [layer], { trace });
    const reply = { manifestDigest: digestOf(manifest), manifest, origin };
    cluster.origin.resolve = () => Promise.resolve(reply);
    return { reference, layer };
  }

  it('ImageMounts.mount() prefetches what the trace of the image names', async () => {
    const { reference, layer } = await tracedImage();
    const node = defined(cluster.children[0], 'a child');
    const mounts = mountsOf(node, async () => ({}));
    await mounts.mount(reference, '/mnt/app', signal);
    const held = (): number => node.store.blocksOf(digestOf(layer)).length;
    // The head of the layer, its end, and the block in the middle.
    await expect.poll(held, { timeout: 20_000 }).toBe(3);
    await mounts.unmount('/mnt/app');
    expect(node.engine.trees()).toEqual([]);
  });

  it('ImageMounts.mount() leaves the trees when there is no device', async () => {
    const { reference } = await tracedImage();
    const node = defined(cluster.children[0], 'a child');
    const mounts = mountsOf(node, () => Promise.reject(new Error('no device')));
    await expect(mounts.mount(reference, '/mnt/app', signal)).rejects.toThrow('no device');
    await expect.poll(() => node.engine.trees()).toEqual([]);
  });
});
