import { expect, onTestFinished, test } from 'vitest';
import type { Belonging } from '../../../src/acceleration/messages.ts';
import { collect } from '../../../src/agent/acceleration/collection.ts';
import type { StoredManifest } from '../../../src/convert/places/manifest-parts.ts';
import { RegistryPlace } from '../../../src/convert/places/registry-place.ts';
import type { Digest } from '../../../src/image/digest.ts';
import { INDEX_MEDIA_TYPES, MANIFEST_MEDIA_TYPES } from '../../../src/image/manifest.ts';
import { placeComponents } from '../../convert/places/kit/components.ts';
import { PushRegistry } from '../../kit/push-registry.ts';
import { digestOf } from '../../kit/registry-content.ts';
import { bytesOf } from '../../kit/tar-encoder.ts';

const { signal } = new AbortController();
const OWNER = 'this-root';
const artifactType = 'application/vnd.containerd.overlaybd.native.v1+json';
const blob = { digest: digestOf(bytesOf('blocks')), sizeBytes: 6 };

/** A repository with an original that no tag stands for. */
async function start(listsReferrers = false) {
  const registry = new PushRegistry({ namesDigests: true, listsReferrers });
  await registry.start();
  onTestFinished(() => registry.stop());
  const repository = `${registry.address}/team/app`;
  const parts = placeComponents([registry.address]);
  const place = new RegistryPlace(parts, `docker://${repository}:any`);
  const client = await parts.client();
  const put = async (content: object, tag?: string, index = false): Promise<StoredManifest> => {
    const [mediaType] = index ? INDEX_MEDIA_TYPES : MANIFEST_MEDIA_TYPES;
    const bytes = bytesOf(JSON.stringify({ schemaVersion: 2, mediaType, ...content }));
    const manifest = { mediaType, bytes, digest: digestOf(bytes) };
    const { subject } = content as { subject?: object };
    if (subject === undefined) await place.putManifest(manifest, tag, signal);
    else await place.addReferrer(manifest, signal);
    return manifest;
  };
  const original = await put({ annotations: { name: 'original' } });
  const image = await put({ artifactType, subject: named(original) });
  const run = (
    belongings: readonly Omit<Belonging, 'repository'>[],
    read: readonly Digest[] = [],
  ) =>
    collect(
      { client, place, owner: OWNER, readBlobs: new Set(read) },
      belongings.map((each) => ({ ...each, repository })),
      signal,
    );
  const has = (digest: Digest) => registry.manifests.has(`team/app ${digest}`);
  return { registry, place, put, original, image, run, has };
}

function named({ mediaType, digest, bytes }: StoredManifest) {
  return { mediaType, digest, size: bytes.length };
}

function imageOf({ digest }: StoredManifest, subject: StoredManifest) {
  return { kind: 'image', digest, subject: subject.digest, blobs: [blob] } as const;
}

test.each([false, true])('removes what nobody refers to, and its entry; API: %s', async (api) => {
  const { place, original, image, run, has } = await start(api);
  const mine = imageOf(image, original);
  expect(await run([mine])).toMatchObject({ gone: [image.digest], refused: undefined });
  expect(has(image.digest)).toBe(false);
  expect(await place.referrers(original.digest, undefined, signal)).toEqual([]);
  expect(await run([mine]), 'again').toMatchObject({ gone: [image.digest] });
});

test('keeps what a tag stands for, also by an index, and what refers to an original', async () => {
  const { put, original, image, run, has } = await start();
  const mine = imageOf(image, original);
  const reason = (tag: string) => `the tag ${tag} stands for it or for its original`;
  for (const [tag, content] of [
    ['in-index', { manifests: [named(original)] }],
    ['block-index', { manifests: [named(image)] }],
  ] as const) {
    const index = await put(content, tag, true);
    expect([...(await run([mine])).kept.values()]).toEqual([reason(tag)]);
    expect(has(index.digest)).toBe(true);
    await put({ annotations: { name: 'other' } }, tag);
  }
  const signature = await put({ artifactType: 'signature', subject: named(image) });
  const { kept } = await run([mine]);
  expect(kept.get(image.digest)).toBe(`${signature.digest} refers to it`);
  expect(has(image.digest)).toBe(true);
});

test('keeps what hosts read, and what an index names that stays', async () => {
  const { put, original, image, run, has } = await start(true);
  const mine = imageOf(image, original);
  expect([...(await run([mine], [blob.digest])).kept.values()]).toEqual(['hosts read it']);
  const list = await put({ manifests: [named(original)] }, undefined, true);
  const index = await put(
    { artifactType, subject: named(list), manifests: [named(image)] },
    undefined,
    true,
  );
  await put({ artifactType: 'signature', subject: named(index) });
  const ofIndex = { ...imageOf(index, list), blobs: [] };
  const { gone, kept } = await run([mine, ofIndex]);
  expect(gone).toEqual([]);
  expect([...kept.keys()].sort()).toEqual([index.digest, image.digest].sort());
  expect(has(image.digest)).toBe(true);
});

test('removes nothing that is not its own: another subject, owner or content', async () => {
  const { put, original, image, run, has } = await start();
  const other = await put({ annotations: { name: 'other' } });
  const annotations = { 'io.xylem.owner': 'another-root' };
  const [foreign, moved] = [await put({ annotations }, 'xylem-layer-1'), await put({ layers: [] })];
  await put({ annotations: { name: 'new' } }, 'xylem-layer-2');
  const layer = { kind: 'layer', blobs: [blob] } as const;
  const { gone, kept } = await run([
    imageOf(image, other),
    { ...layer, digest: foreign.digest, tag: 'xylem-layer-1' },
    { ...layer, digest: moved.digest, tag: 'xylem-layer-2' },
    imageOf(original, other),
  ]);
  expect(gone, 'they are forgotten').toHaveLength(4);
  expect(kept.size).toBe(0);
  for (const { digest } of [image, original, foreign, moved]) expect(has(digest)).toBe(true);
});

test('removes a kept layer that is its own, with its tag', async () => {
  const { registry, put, run } = await start();
  const annotations = { 'io.xylem.owner': OWNER };
  const { digest } = await put({ annotations }, 'xylem-layer-1');
  const layer = { kind: 'layer', digest, tag: 'xylem-layer-1', blobs: [blob] } as const;
  expect((await run([layer], [blob.digest])).kept.get(digest)).toBe('hosts read it');
  expect(await run([layer])).toMatchObject({ gone: [digest] });
  expect(registry.manifests.has('team/app xylem-layer-1')).toBe(false);
});

test('removes its own layer whose tag another root has taken, and leaves the tag', async () => {
  const { put, run, has } = await start();
  const mine = await put({ annotations: { 'io.xylem.owner': OWNER } }, 'xylem-layer-1');
  const other = await put({ annotations: { 'io.xylem.owner': 'another' } }, 'xylem-layer-1');
  const layer = {
    kind: 'layer',
    digest: mine.digest,
    tag: 'xylem-layer-1',
    blobs: [blob],
  } as const;
  expect(await run([layer])).toMatchObject({ gone: [mine.digest] });
  expect([has(mine.digest), has(other.digest)]).toEqual([false, true]);
});

test('ends with the first refusal, and tells it', async () => {
  const { registry, original, image, run, has } = await start();
  registry.habits.deleteStatus = 405;
  const { gone, refused } = await run([imageOf(image, original)]);
  expect(gone).toEqual([]);
  expect(refused).toMatch(/405/);
  expect(has(image.digest)).toBe(true);
  registry.habits.deleteStatus = 404;
  expect(await run([imageOf(image, original)])).toMatchObject({ gone: [image.digest] });
});
