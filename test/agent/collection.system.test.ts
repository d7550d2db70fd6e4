import { setTimeout as sleep } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import type { ClusterHost } from '../../src/demo/agent-cluster.ts';
import { copyImage } from '../../src/convert/copy-image.ts';
import { RegistryPlace } from '../../src/convert/places/registry-place.ts';
import type { Digest } from '../../src/image/digest.ts';
import { defined } from '../../src/util/assert.ts';
import { SourceImages, type LayerInit } from '../convert/kit/source-images.ts';
import { placeComponents } from '../convert/places/kit/components.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { PushRegistry } from '../kit/push-registry.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { bytesOf, member } from '../kit/tar-encoder.ts';
import {
  digestAt,
  keptBy,
  ready,
  referrersOf,
  set,
  startRoot,
  tagsOf,
} from './kit/acceleration-rig.ts';

const { signal } = new AbortController();

const layer = (name: string): LayerInit => ({ members: [member({ path: name }, bytesOf(name))] });

/** Puts an image of these layers there, with this tag; its digest. */
async function put(
  registry: string,
  names: readonly string[],
  { tag = '1', indexed = false } = {},
): Promise<Digest> {
  const images = new SourceImages();
  const one = await images.put('app', names.map(layer));
  if (indexed) {
    const platform = { os: 'linux', architecture: 'amd64' };
    await images.putIndex('app', [{ ...one, platform }]);
  }
  const place = new RegistryPlace(
    placeComponents([registry]),
    `docker://${registry}/team/app:${tag}`,
  );
  return (await copyImage(images.place('app'), place, { signal })).digest;
}

/** The digests of the block images of a version, once it is Ready. */
async function accelerated(
  root: ClusterHost,
  registry: string,
  version: Digest,
): Promise<readonly Digest[]> {
  const image = `docker://${registry}/team/app:1`;
  for (;;) {
    await set(root, { image });
    const { ready: made } = await ready(root, image);
    if (made?.sourceDigest === version) return made.images.map(({ digest }) => digest);
    await sleep(100);
  }
}

async function untilKept(
  root: ClusterHost,
  isSo: (kept: Awaited<ReturnType<typeof keptBy>>) => boolean,
): Promise<Awaited<ReturnType<typeof keptBy>>> {
  for (;;) {
    const kept = await keptBy(root);
    if (isSo(kept)) return kept;
    await sleep(100);
  }
}

const layerTags = async (registry: string): Promise<readonly string[]> =>
  (await tagsOf(registry)).filter((tag) => tag.startsWith('xylem-layer-')).sort();

describeWith(
  'a root that accelerates images',
  ['docker-registry', 'mke2fs', 'nice'].map(needs.program),
  () => {
    test('removes what it has put into docker-registry and nobody refers to', async () => {
      const registry = await startDockerRegistry({ deletes: true });
      const v1 = await put(registry, ['below', 'one']);
      const { root } = await startRoot({ registry, acceleration: { keepSeconds: 1 } });
      const old = defined((await accelerated(root, registry, v1))[0], 'a block image');
      const before = await layerTags(registry);
      expect(before).toHaveLength(2);
      await put(registry, ['below', 'one'], { tag: 'stays' });
      const v2 = await put(registry, ['below', 'two']);
      const made = defined((await accelerated(root, registry, v2))[0], 'a block image');
      const held = await untilKept(root, ({ things }) => things.some((each) => each.reason));
      expect(held.things.find(({ digest }) => digest === old)).toMatchObject({
        ...{ kind: 'image', subject: v1, repository: `${registry}/team/app` },
        reason: 'the tag stays stands for it or for its original',
      });
      expect(await digestAt(registry, old)).toBe(old);

      await put(registry, ['other'], { tag: 'stays' });
      const { things } = await untilKept(root, (kept) => kept.things.length === 3);
      expect(things.every(({ idleMs }) => idleMs === undefined)).toBe(true);
      expect(await digestAt(registry, old)).toBeNull();
      expect(await referrersOf(registry, v1)).toEqual([]);
      expect(await digestAt(registry, v1), 'the original is none of its own').toBe(v1);
      const after = await layerTags(registry);
      expect(after).toHaveLength(2);
      expect(
        after.filter((tag) => before.includes(tag)),
        'the layer below',
      ).toHaveLength(1);
      expect(await digestAt(registry, made)).toBe(made);
      expect(await accelerated(root, registry, v2)).toEqual([made]);
    });

    test('leaves a registry alone that refuses, and says so', async () => {
      const registry = await startDockerRegistry();
      const v1 = await put(registry, ['one']);
      const { root } = await startRoot({ registry, acceleration: { keepSeconds: 1 } });
      const [old] = await accelerated(root, registry, v1);
      await accelerated(root, registry, await put(registry, ['two']));
      const kept = await untilKept(root, ({ things }) => things.some((each) => each.reason));
      const idle = kept.things.filter(({ idleMs }) => idleMs !== undefined);
      expect(idle).toHaveLength(2);
      for (const each of idle) {
        expect(each.reason).toMatch(/405/);
        expect(each.removeMs).toBeUndefined();
      }
      expect(kept.sizeBytes).toBeGreaterThan(idle[0]?.sizeBytes ?? Infinity);
      expect(await digestAt(registry, defined(old, 'a block image'))).toBe(old);
      expect(await layerTags(registry)).toHaveLength(2);
    });

    test('removes an index and what it names, by the referrers API', async () => {
      const registry = new PushRegistry({
        listsReferrers: true,
        namesDigests: true,
        pageEntries: 2,
      });
      await registry.start();
      onTestFinished(() => registry.stop());
      const { address } = registry;
      const v1 = await put(address, ['one'], { indexed: true });
      const acceleration = { keepSeconds: 1, allPlatforms: true };
      const { root } = await startRoot({ registry: address, acceleration });
      const old = await accelerated(root, address, v1);
      expect(old).toHaveLength(2);
      const v2 = await put(address, ['two'], { indexed: true });
      const made = await accelerated(root, address, v2);
      await untilKept(root, ({ things }) => things.length === 3);
      const has = (digest: Digest) => registry.manifests.has(`team/app ${digest}`);
      expect(old.map(has)).toEqual([false, false]);
      expect([...made, v1, v2].map(has)).toEqual([true, true, true, true]);
    });
  },
);
