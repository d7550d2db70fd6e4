import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { copyImage } from '../../../src/convert/copy-image.ts';
import { ArchiveSource } from '../../../src/convert/places/archive-source.ts';
import { ArchiveTarget } from '../../../src/convert/places/archive-target.ts';
import { LayoutPlace } from '../../../src/convert/places/layout-place.ts';
import { readParts } from '../../../src/convert/places/manifest-parts.ts';
import { tarOf } from '../../../src/image/tar.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { putLayout } from '../../kit/oci-layout.ts';
import { digestOf } from '../../kit/registry-content.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { sampleBytes } from '../../kit/layers.ts';

const { signal } = new AbortController();
const components = { hash: new NodeHash() };
const layers = [sampleBytes(3_000_000, 1), sampleBytes(700, 2)];

const bytesOf = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value));

/** An archive of older versions of Docker, with these images. */
function saveOld(images: readonly { tags: readonly string[]; layers: readonly Uint8Array[] }[]) {
  const file = join(tempFolder(), 'old.tar');
  const entries: { name: string; bytes: Uint8Array }[] = [];
  const listed = images.map((image, i) => {
    const diffIds = image.layers.map(digestOf);
    const config = bytesOf({ os: 'linux', rootfs: { type: 'layers', diff_ids: diffIds } });
    entries.push({ name: `${i}.json`, bytes: config });
    const names = image.layers.map((bytes, k) => {
      entries.push({ name: `${i}-${k}/layer.tar`, bytes });
      return `${i}-${k}/layer.tar`;
    });
    return { Config: `${i}.json`, RepoTags: image.tags, Layers: names };
  });
  writeFileSync(file, tarOf([...entries, { name: 'manifest.json', bytes: bytesOf(listed) }]).bytes);
  return file;
}

async function makeLayout(): Promise<LayoutPlace> {
  const directory = tempFolder();
  await putLayout(directory, '1', layers);
  return new LayoutPlace(components, `oci:${directory}:1`);
}

test('an archive keeps the manifest of an image byte for byte', async () => {
  const source = await makeLayout();
  const file = join(tempFolder(), 'app.tar');
  const target = new ArchiveTarget(`docker-archive:${file}:team/app:1.4`);
  const { digest } = await copyImage(source, target, { signal });
  const back = new LayoutPlace(components, `oci:${tempFolder()}:1`);
  const archive = new ArchiveSource(components, `docker-archive:${file}:team/app:1.4`);
  await copyImage(archive, back, { signal });
  expect(await back.resolve(signal)).toEqual(await source.resolve(signal));
  expect((await back.resolve(signal)).digest).toBe(digest);
  const full = new ArchiveSource(components, `docker-archive:${file}:docker.io/team/app:1.4`);
  expect((await full.resolve(signal)).digest).toBe(digest);
  const other = new ArchiveSource(components, `docker-archive:${file}:team/app:2`);
  await expect(other.resolve(signal)).rejects.toThrow(/no image team\/app:2; it has .*app:1\.4/);
});

test('an archive replaces an earlier one when it is whole, and not before', async () => {
  const folder = tempFolder();
  const file = join(folder, 'app.tar');
  writeFileSync(file, 'earlier');
  const controller = new AbortController();
  const onProgress = (): void => controller.abort(new Error('stopped'));
  const target = new ArchiveTarget(`docker-archive:${file}`);
  const copied = copyImage(await makeLayout(), target, { signal: controller.signal, onProgress });
  await expect(copied).rejects.toThrow('stopped');
  expect(readdirSync(folder)).toEqual(['app.tar']);
  expect(readFileSync(file, 'utf8')).toBe('earlier');
});

test('a layout has no partial file after a copy that was stopped', async () => {
  const folder = tempFolder();
  const controller = new AbortController();
  const onProgress = (): void => controller.abort(new Error('stopped'));
  const target = new LayoutPlace(components, `oci:${folder}:1`);
  const copied = copyImage(await makeLayout(), target, { signal: controller.signal, onProgress });
  await expect(copied).rejects.toThrow('stopped');
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' });
  expect(names.filter((name) => name.includes('part'))).toEqual([]);
  expect(names).not.toContain('index.json');
});

test('an image of an older archive gets a manifest, the same each time', async () => {
  const file = saveOld([{ tags: ['app:1'], layers }]);
  const source = new ArchiveSource(components, `docker-archive:${file}`);
  const manifest = await source.resolve(signal);
  const { blobs } = readParts(manifest);
  expect(blobs.slice(1).map(({ digest }) => digest)).toEqual(layers.map(digestOf));
  const target = new LayoutPlace(components, `oci:${tempFolder()}:1`);
  expect((await copyImage(source, target, { signal })).writtenCount).toBe(3);
  const again = new ArchiveSource(components, `docker-archive:${file}:app:1`);
  expect((await again.resolve(signal)).digest).toBe(manifest.digest);
});

test('an archive with several images wants a name', async () => {
  const file = saveOld([
    { tags: ['app:1'], layers },
    { tags: ['base:2'], layers: [layers[1] ?? new Uint8Array()] },
  ]);
  const any = new ArchiveSource(components, `docker-archive:${file}`);
  await expect(any.resolve(signal)).rejects.toThrow(/has 2 images; name one: .*app:1, base:2/);
  const base = new ArchiveSource(components, `docker-archive:${file}:base:2`);
  expect(readParts(await base.resolve(signal)).blobs).toHaveLength(2);
});

test('a layer that the config does not describe is found out', async () => {
  const file = saveOld([{ tags: ['app:1'], layers }]);
  const bytes = readFileSync(file);
  const at = bytes.indexOf(Buffer.from(layers[0] ?? []));
  bytes[at + 1_000_000] = (bytes[at + 1_000_000] ?? 0) ^ 1;
  writeFileSync(file, bytes);
  const source = new ArchiveSource(components, `docker-archive:${file}`);
  const target = new LayoutPlace(components, `oci:${tempFolder()}:1`);
  await expect(copyImage(source, target, { signal })).rejects.toMatchObject({
    code: 'digest-mismatch',
  });
});

test.each([
  ['compressed', Buffer.from([0x1f, 0x8b, ...Buffer.alloc(2000)]), /no tar archive.*compression/],
  ['empty', Buffer.alloc(10_240), /neither manifest.json nor index.json/],
])('a file that is %s is refused with what to do', async (_, bytes, message) => {
  const file = join(tempFolder(), 'x.tar');
  writeFileSync(file, bytes);
  const source = new ArchiveSource(components, `docker-archive:${file}`);
  await expect(source.resolve(signal)).rejects.toThrow(message);
});

test('an archive that was cut off is refused', async () => {
  const file = saveOld([{ tags: ['app:1'], layers }]);
  writeFileSync(file, readFileSync(file).subarray(0, 2_000_000));
  const source = new ArchiveSource(components, `docker-archive:${file}`);
  await expect(source.resolve(signal)).rejects.toThrow(
    /archive ends within it; .*save the image again/,
  );
});

test.each(['docker-archive:', 'docker-archive:a.tar:', 'docker-archive:a.tar:UPPER:1'])(
  '%s names no archive',
  (name) => {
    expect(() => new ArchiveSource(components, name)).toThrow();
    expect(() => new ArchiveTarget(name)).toThrow();
  },
);
