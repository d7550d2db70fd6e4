import { expect, onTestFinished, test } from 'vitest';
import { copyImage } from '../../../src/convert/copy-image.ts';
import { openUntagged } from '../../../src/convert/places/open-place.ts';
import { LayoutPlace } from '../../../src/convert/places/layout-place.ts';
import type { StoredManifest } from '../../../src/convert/places/manifest-parts.ts';
import { referrersTag } from '../../../src/registry/referrers.ts';
import { RegistryPlace } from '../../../src/convert/places/registry-place.ts';
import { digestOf } from '../../kit/registry-content.ts';
import { FakeRegistry } from '../../kit/fake-registry.ts';
import { putLayout } from '../../kit/oci-layout.ts';
import { PushRegistry, type PushHabits } from '../../kit/push-registry.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { sampleBytes } from '../../kit/layers.ts';
import { placeComponents } from './kit/components.ts';

const { signal } = new AbortController();
const [MANIFEST, INDEX] = [
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.oci.image.index.v1+json',
];

async function startRegistry(habits: PushHabits = {}): Promise<PushRegistry> {
  const registry = new PushRegistry(habits);
  await registry.start();
  onTestFinished(() => registry.stop());
  return registry;
}

/** A layout with one small image as tag `1`. */
async function makeLayout(): Promise<string> {
  const directory = tempFolder();
  await putLayout(directory, '1', [sampleBytes(100_000, 1), sampleBytes(200_000, 2)]);
  return directory;
}

/** A manifest that refers to another one. */
function referrerOf(subject: StoredManifest, artifactType: string): StoredManifest {
  const { mediaType, digest, bytes } = subject;
  const text = JSON.stringify({
    ...{ schemaVersion: 2, mediaType: MANIFEST, artifactType },
    config: { mediaType: 'application/vnd.oci.empty.v1+json', digest: digestOf(EMPTY), size: 2 },
    layers: [],
    subject: { mediaType, digest, size: bytes.length },
  });
  const own = Buffer.from(text);
  return { mediaType: MANIFEST, bytes: own, digest: digestOf(own) };
}

const EMPTY = Buffer.from('{}');

test('copyImage() keeps an image byte for byte, and sends nothing twice', async () => {
  const registry = await startRegistry();
  const directory = await makeLayout();
  const components = placeComponents([registry.address]);
  const source = new LayoutPlace(components, `oci:${directory}:1`);
  const name = `docker://${registry.address}/team/app:1`;
  const options = { signal };
  const first = await copyImage(source, new RegistryPlace(components, name), options);
  expect(first).toMatchObject({ manifestCount: 1, blobCount: 3, writtenCount: 3 });
  const stored = registry.manifests.get('team/app 1');
  expect(digestOf(stored?.bytes ?? EMPTY)).toBe(first.digest);
  expect(stored?.mediaType).toBe(first.mediaType);
  const again = await copyImage(source, new RegistryPlace(components, name), options);
  expect(again).toMatchObject({ digest: first.digest, writtenCount: 0, writtenBytes: 0 });
  const back = new LayoutPlace(components, `oci:${tempFolder()}:x`);
  await copyImage(new RegistryPlace(components, name), back, options);
  expect(await back.resolve(signal)).toEqual(await source.resolve(signal));
});

test('copyImage() mounts blobs of another repository of the registry', async () => {
  const registry = await startRegistry();
  const components = placeComponents([registry.address]);
  const source = new LayoutPlace(components, `oci:${await makeLayout()}:1`);
  const place = (name: string) =>
    new RegistryPlace(components, `docker://${registry.address}/${name}`);
  await copyImage(source, place('a:1'), { signal });
  const receivedBytes = registry.receivedBytes;
  const copied = await copyImage(place('a:1'), place('b/c:2'), { signal });
  expect(copied).toMatchObject({ blobCount: 3, writtenCount: 0 });
  expect(registry.receivedBytes).toBe(receivedBytes);
});

test('copyImage() says which manifest of an index is missing', async () => {
  const registry = await startRegistry();
  const components = placeComponents([registry.address]);
  const missing = digestOf(EMPTY);
  const manifests = [{ mediaType: MANIFEST, digest: missing, size: 2 }];
  const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests }));
  registry.manifests.set('app 1', { mediaType: INDEX, bytes });
  const source = new RegistryPlace(components, `docker://${registry.address}/app:1`);
  const target = new LayoutPlace(components, `oci:${tempFolder()}:1`);
  await expect(copyImage(source, target, { signal })).rejects.toThrow(
    new RegExp(`lacks manifest ${missing}, .*--platform`),
  );
});

test.each([true, false])(
  'referrers are copied, by the API or by the tag (API at the source: %j)',
  async (listsReferrers) => {
    const source = await startRegistry({ listsReferrers, pageEntries: 1 });
    const target = await startRegistry({ listsReferrers: !listsReferrers });
    const components = placeComponents([source.address, target.address]);
    const from = new RegistryPlace(components, `docker://${source.address}/app:1`);
    const to = new RegistryPlace(components, `docker://${target.address}/copy:1`);
    await copyImage(new LayoutPlace(components, `oci:${await makeLayout()}:1`), from, { signal });
    const image = await from.resolve(signal);
    source.blobs.set(`app ${digestOf(EMPTY)}`, EMPTY);
    const signature = referrerOf(image, 'example/signature');
    const list = referrerOf(image, 'example/list');
    const signatureOfList = referrerOf(list, 'example/signature');
    for (const each of [signature, list, signatureOfList]) await from.addReferrer(each, signal);
    const copied = await copyImage(from, to, { signal, withReferrers: true });
    expect(copied).toMatchObject({ digest: image.digest, referrerCount: 3, manifestCount: 4 });
    const digestsAt = async (place: RegistryPlace, artifactType?: string) => {
      const found = await place.referrers(image.digest, artifactType, signal);
      return found.map(({ digest }) => digest).sort();
    };
    expect(await digestsAt(to)).toEqual([signature.digest, list.digest].sort());
    expect(await digestsAt(to, 'example/list')).toEqual([list.digest]);
    expect(await to.referrers(list.digest, undefined, signal)).toHaveLength(1);
    expect(await to.referrers(signature.digest, undefined, signal)).toEqual([]);
    const tags = (registry: PushRegistry, name: string) =>
      registry.manifests.has(`${name} ${referrersTag(image.digest)}`);
    expect([tags(source, 'app'), tags(target, 'copy')]).toEqual([!listsReferrers, listsReferrers]);
  },
);

test('referrers stay listed when writers replace the tag of one another', async () => {
  const registry = await startRegistry();
  const directory = await makeLayout();
  const names = Array.from({ length: 4 }, (_, i) => `example/type-${i}`);
  const places = names.map(() => {
    const components = placeComponents([registry.address]);
    return new RegistryPlace(components, `docker://${registry.address}/app:1`);
  });
  const components = placeComponents([registry.address]);
  const source = new LayoutPlace(components, `oci:${directory}:1`);
  const image = await source.resolve(signal);
  await Promise.all(
    places.map((place, i) => place.addReferrer(referrerOf(image, names[i] ?? ''), signal)),
  );
  const found = await places[0]?.referrers(image.digest, undefined, signal);
  expect(found?.map(({ artifactType }) => artifactType).sort()).toEqual(names);
});

test('an entry that another writer dropped is put again', async () => {
  let reads = 0;
  const registry = await startRegistry({
    onTagRead: (tag) => {
      // The writer that read before the first put, and puts after it.
      if (++reads === 2) registry.manifests.delete(`app ${tag}`);
    },
  });
  const components = placeComponents([registry.address]);
  const image = await new LayoutPlace(components, `oci:${await makeLayout()}:1`).resolve(signal);
  const place = new RegistryPlace(components, `docker://${registry.address}/app:1`);
  await place.addReferrer(referrerOf(image, 'example/signature'), signal);
  registry.habits.onTagRead = undefined;
  expect(await place.referrers(image.digest, undefined, signal)).toHaveLength(1);
});

test('RegistryPlace.openBlob() holds the end of a blob back that does not match', async () => {
  const registry = new FakeRegistry();
  await registry.start();
  onTestFinished(() => registry.stop());
  const components = placeComponents([registry.address]);
  const place = new RegistryPlace(components, `docker://${registry.address}/app:1`);
  const read = async (blob: { bytes: Buffer; digest: ReturnType<typeof digestOf> }) => {
    const pieces: Uint8Array[] = [];
    const open = place.openBlob({ digest: blob.digest, sizeBytes: blob.bytes.length }, signal);
    const whole = (async () => {
      for await (const piece of open) pieces.push(piece);
    })();
    const failure = await whole.then(
      () => undefined,
      (error: unknown) => error,
    );
    return { bytes: Buffer.concat(pieces), failure };
  };
  const good = registry.add(9_000_000);
  const sound = await read(good);
  expect([sound.bytes.equals(good.bytes), sound.failure]).toEqual([true, undefined]);
  const wrong = Buffer.from(good.bytes);
  wrong[0] = (wrong[0] ?? 0) ^ 1;
  registry.share({ ...good, bytes: wrong });
  const { bytes, failure } = await read(good);
  expect(bytes.length).toBeLessThan(good.bytes.length);
  expect(failure).toMatchObject({ code: 'digest-mismatch' });
});

test.each([true, false])(
  'removeReferrer() takes one out of the list, by the API or by the tag (API: %j)',
  async (listsReferrers) => {
    const registry = await startRegistry({ listsReferrers });
    const components = placeComponents([registry.address]);
    const directory = await makeLayout();
    const name = `docker://${registry.address}/team/app:1`;
    const place = new RegistryPlace(components, name);
    await copyImage(new LayoutPlace(components, `oci:${directory}:1`), place, { signal });
    const image = await place.resolve(signal);
    const [one, other] = [referrerOf(image, 'example/one'), referrerOf(image, 'example/other')];
    for (const each of [one, other]) await place.addReferrer(each, signal);
    const gone = { subject: image.digest, digest: one.digest };
    await place.removeReferrer(gone, signal);
    const left = await place.referrers(image.digest, undefined, signal);
    expect(left.map(({ digest }) => digest)).toEqual([other.digest]);
    await place.removeReferrer(gone, signal);
    await place.removeReferrer({ ...gone, digest: other.digest }, signal);
    expect(await place.referrers(image.digest, undefined, signal)).toEqual([]);
  },
);

test('removeReferrer() rejects when the registry removes nothing', async () => {
  const registry = await startRegistry({ listsReferrers: true, deleteStatus: 405 });
  const components = placeComponents([registry.address]);
  const place = new RegistryPlace(components, `docker://${registry.address}/team/app:1`);
  const digest = digestOf(EMPTY);
  const removed = place.removeReferrer({ subject: digest, digest }, signal);
  await expect(removed).rejects.toThrow(/405/);
});

test('an untagged place puts manifests by their digest alone, whatever its name says', async () => {
  const registry = await startRegistry();
  const components = placeComponents([registry.address]);
  const directory = await makeLayout();
  const text = `docker://${registry.address}/team/app:1`;
  const place = openUntagged(text, components);
  await copyImage(new LayoutPlace(components, `oci:${directory}:1`), place, { signal });
  const names = [...registry.manifests.keys()];
  expect(names).toEqual([expect.stringMatching(/^team\/app sha256:/)]);
  expect(() => openUntagged('oci:./images:1', components)).toThrow(/no image in a registry/);
});

test('manifestDigest() learns what a tag stands for, from the header or the manifest', async () => {
  const registry = await startRegistry();
  const components = placeComponents([registry.address]);
  const directory = await makeLayout();
  const place = new RegistryPlace(components, `docker://${registry.address}/team/app:1`);
  await copyImage(new LayoutPlace(components, `oci:${directory}:1`), place, { signal });
  const { digest } = await place.resolve(signal);
  const client = await components.client();
  const origin = { registry: registry.address, repository: 'team/app' };
  expect(await client.manifestDigest(origin, '1')).toBe(digest);
  registry.habits.namesDigests = true;
  registry.asked.length = 0;
  expect(await client.manifestDigest(origin, '1')).toBe(digest);
  expect(registry.asked).toEqual(['HEAD manifests/1']);
  await expect(client.manifestDigest(origin, '2')).rejects.toMatchObject({ code: 'not-found' });
});
