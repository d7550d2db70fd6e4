import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { BLOCK_IMAGE_DEFAULTS } from '../../src/convert/block-image-builder.ts';
import { convertImage, type ConvertOptions } from '../../src/convert/convert-image.ts';
import { copyImage } from '../../src/convert/copy-image.ts';
import { flattenLayers } from '../../src/convert/flatten.ts';
import { digestsOf } from '../../src/convert/layer-blob.ts';
import { LayerCache, putBytes } from '../../src/convert/layer-cache.ts';
import { blobPath, putBlob, tagManifest } from '../../src/convert/oci-layout.ts';
import { readParts } from '../../src/convert/places/manifest-parts.ts';
import { LayoutPlace } from '../../src/convert/places/layout-place.ts';
import type { ImagePlace, ImageTarget } from '../../src/convert/places/place.ts';
import { RegistryPlace } from '../../src/convert/places/registry-place.ts';
import { readSourceImage } from '../../src/convert/source-image.ts';
import { verifyImage } from '../../src/convert/verify-image.ts';
import { BlockDigests } from '../../src/image/block-digests.ts';
import { memorySource } from '../../src/image/byte-source.ts';
import type { Digest } from '../../src/image/digest.ts';
import { blockLayers, parseManifest } from '../../src/image/manifest.ts';
import { referrersTag } from '../../src/registry/referrers.ts';
import { NodeDecompressor } from '../../src/runtime/node/decompressor.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { codec } from '../kit/layers.ts';
import { PushRegistry } from '../kit/push-registry.ts';
import { digestOf } from '../kit/registry-content.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { bytesOf, member } from '../kit/tar-encoder.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { SourceImages, type LayerInit } from './kit/source-images.ts';
import { placeComponents } from './places/kit/components.ts';

const components = { codec, hash: new NodeHash(), decompressor: new NodeDecompressor() };
const { signal } = new AbortController();
const OPTIONS: ConvertOptions = {
  ...BLOCK_IMAGE_DEFAULTS,
  deviceBytes: 2 ** 28,
  signal,
  platform: undefined,
  asReferrer: false,
};
const ARTIFACT_TYPE = 'application/vnd.containerd.overlaybd.native.v1+json';
const tools = [needs.program('mke2fs'), needs.program('debugfs'), needs.program('e2fsck')];

const file = (path: string, text: string): Uint8Array => member({ path }, bytesOf(text));
const directory = (path: string): Uint8Array => member({ path, type: '5', mode: 0o755 });

/** What the tag of a kept layer names. */
interface KeptManifest {
  readonly layers: readonly object[];
}

/** Three layers that change each other, each compressed in another way. */
const LAYERS: readonly LayerInit[] = [
  { members: [directory('etc'), file('etc/name', 'lower'), file('gone/deep/file', 'x')] },
  {
    members: [file('etc/name', 'upper'), file('.wh.gone', ''), file('added', 'a'.repeat(9000))],
    compression: 'gzip',
  },
  { members: [member({ path: 'link', type: '1', linkTarget: 'added' })], compression: 'zstd' },
];

function layoutPlace(
  folder: string,
  tag = 'block',
  more: { onWarning?: (text: string) => void } = {},
): LayoutPlace {
  return new LayoutPlace({ ...components, ...more }, `oci:${join(folder, 'target')}:${tag}`);
}

/** Converts with a work folder that must be empty afterwards. */
async function convert(
  source: ImagePlace,
  target: ImageTarget,
  init: { open?: (tag: string) => ImagePlace; options?: Partial<ConvertOptions> } = {},
): ReturnType<typeof convertImage> {
  const workFolder = join(tempFolder(), 'work');
  mkdirSync(workFolder);
  const options = { ...OPTIONS, ...init.options };
  const { open } = init;
  const cache =
    open === undefined ? undefined : new LayerCache(components, { target, open }, options);
  try {
    return await convertImage(components, { source, target, cache, workFolder }, options);
  } finally {
    expect(readdirSync(workFolder).filter((name) => name === 'disk')).toEqual([]);
  }
}

/** The block device of a tag of the layout, as a file. */
async function deviceOf(folder: string, tag = 'block'): Promise<string> {
  const stored = await layoutPlace(folder, tag).resolve(signal);
  const paths = blockLayers(parseManifest(stored.bytes)).map(({ digest }) =>
    blobPath(join(folder, 'target'), digest),
  );
  const device = join(folder, `device-${tag}`);
  await flattenLayers({ codec }, paths, device);
  return device;
}

function debugfs(device: string, command: string): string {
  return execFileSync('/usr/sbin/debugfs', ['-R', command, device], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

describeWith('convertImage()', tools, () => {
  it('gives a sound file system with what the layers make', async () => {
    const images = new SourceImages();
    await images.put('app', LAYERS, { config: { Env: ['A=1'], Cmd: ['/bin/true'] } });
    const folder = tempFolder();
    const result = await convert(images.place('app'), layoutPlace(folder));
    const [platform] = result.platforms;
    expect(platform?.platform).toEqual({ os: 'linux', architecture: 'amd64' });
    expect(platform?.layers.map(({ isReused }) => isReused)).toEqual([false, false, false]);
    const device = await deviceOf(folder);
    execFileSync('/usr/sbin/e2fsck', ['-fn', device], { stdio: 'pipe' });
    expect(debugfs(device, 'cat /etc/name')).toBe('upper');
    expect(debugfs(device, 'cat /link')).toBe('a'.repeat(9000));
    expect(debugfs(device, 'ls -p /').match(/\/[^/]*\/\n/g)?.length).toBe(5);
    const checks = await verifyImage(components, {
      directory: join(folder, 'target'),
      tag: 'block',
    });
    expect(checks.map(({ hasBlockDigests }) => hasBlockDigests)).toEqual([true, true, true]);
    const stored = await layoutPlace(folder).resolve(signal);
    const { config } = parseManifest(stored.bytes);
    const text = readFileSync(blobPath(join(folder, 'target'), config.digest), 'utf8');
    expect(JSON.parse(text)).toMatchObject({ config: { Env: ['A=1'], Cmd: ['/bin/true'] } });
  });

  it('gives the same digests again, and other ones with other options', async () => {
    const images = new SourceImages();
    await images.put('app', LAYERS);
    const source = images.place('app');
    const one = await convert(source, layoutPlace(tempFolder()));
    const two = await convert(source, layoutPlace(tempFolder()));
    expect(two).toEqual(one);
    const compression = { algorithm: 'zstd', blockSizeBytes: 16_384 } as const;
    const folder = tempFolder();
    const three = await convert(source, layoutPlace(folder), { options: { compression } });
    expect(three.digest).not.toBe(one.digest);
    expect(debugfs(await deviceOf(folder), 'cat /etc/name')).toBe('upper');
  });

  it('uses layers of earlier conversions again, with the same result', async () => {
    const images = new SourceImages();
    await images.put('old', LAYERS.slice(0, 2));
    await images.put('new', LAYERS);
    const folder = tempFolder();
    const open = (tag: string): LayoutPlace => layoutPlace(folder, tag);
    await convert(images.place('old'), layoutPlace(folder, 'old'), { open });
    const target = layoutPlace(folder, 'new');
    const again = await convert(images.place('new'), target, { open });
    const reused = again.platforms[0]?.layers.map(({ isReused }) => isReused);
    expect(reused).toEqual([true, true, false]);
    const fresh = await convert(images.place('new'), layoutPlace(tempFolder()));
    expect(again.digest).toBe(fresh.digest);
    const third = await convert(images.place('new'), target, { open });
    expect(third.platforms[0]?.layers.every(({ isReused }) => isReused)).toBe(true);
    expect(third.digest).toBe(fresh.digest);
  });

  it.each<[string, (kept: KeptManifest, folder: string) => Promise<unknown>]>([
    ['no image', () => Promise.resolve('<html>')],
    ['a list', () => Promise.resolve([])],
    [
      'an image without block digests',
      async ({ layers, ...kept }) => ({
        ...kept,
        layers: layers.slice(0, 1),
      }),
    ],
    [
      'another layer',
      async ({ layers: [layer, ...top], ...kept }, folder) => {
        const bytes = bytesOf('no layer');
        await putBlob(join(folder, 'target'), digestOf(bytes), bytes);
        return {
          ...kept,
          layers: [{ ...layer, digest: digestOf(bytes), size: bytes.length }, ...top],
        };
      },
    ],
  ])('makes a layer anew when its tag names %s', async (_, poison) => {
    const images = new SourceImages();
    await images.put('app', LAYERS);
    const folder = tempFolder();
    const open = (tag: string): LayoutPlace => layoutPlace(folder, tag);
    const first = await convert(images.place('app'), layoutPlace(folder), { open });
    const directory = join(folder, 'target');
    const index = readFileSync(join(directory, 'index.json'), 'utf8');
    const tags = index.match(/xylem-layer-[0-9a-f]{40}/g) ?? [];
    expect(tags).toHaveLength(LAYERS.length);
    for (const tag of tags) {
      const { bytes } = await layoutPlace(folder, tag).resolve(signal);
      const kept = JSON.parse(new TextDecoder().decode(bytes)) as KeptManifest;
      const poisoned = bytesOf(JSON.stringify(await poison(kept, folder)));
      const digest = digestOf(poisoned);
      await putBlob(directory, digest, poisoned);
      await tagManifest({ directory, tag }, { digest, size: poisoned.length });
    }
    const again = await convert(images.place('app'), layoutPlace(folder), { open });
    expect(again.digest).toBe(first.digest);
    expect(again.platforms[0]?.layers.some(({ isReused }) => isReused)).toBe(false);
    const third = await convert(images.place('app'), layoutPlace(folder), { open });
    expect(third.platforms[0]?.layers.every(({ isReused }) => isReused)).toBe(true);
  });

  it.each([0, 2])('makes layer %i anew when its blob is damaged, and says so', async (i) => {
    const images = new SourceImages();
    await images.put('app', LAYERS);
    const folder = tempFolder();
    const warnings: string[] = [];
    const onWarning = (text: string) => void warnings.push(text);
    const open = (tag: string) => layoutPlace(folder, tag, { onWarning });
    const first = await convert(images.place('app'), open('block'), { open });
    const { digest = '' } = first.platforms[0]?.layers[i] ?? {};
    const path = blobPath(join(folder, 'target'), digest as Digest);
    const bytes = readFileSync(path);
    bytes[2000]! ^= 1;
    writeFileSync(path, bytes);
    const again = await convert(images.place('app'), open('block'), { open });
    expect(again.digest).toBe(first.digest);
    const reused = again.platforms[0]?.layers.map(({ isReused }) => isReused);
    expect(reused).toEqual(LAYERS.map((_, k) => k < i));
    expect(warnings).toEqual([`${path} is damaged, and is made anew`]);
    const target = { directory: join(folder, 'target'), tag: 'block' };
    const checks = await verifyImage(components, target);
    expect(checks.map(({ result }) => result)).toEqual(
      LAYERS.map(() => expect.objectContaining({ isCovered: true }) as unknown),
    );
  });

  it('makes a layer anew when what is kept for it is none, and says so', async () => {
    const images = new SourceImages();
    await images.put('app', LAYERS);
    const folder = tempFolder();
    const open = (tag: string): LayoutPlace => layoutPlace(folder, tag);
    const target = open('block');
    const bytes = bytesOf('no layer');
    const layer = { digest: digestOf(bytes), sizeBytes: bytes.length };
    const { blockDigests } = await digestsOf(components.hash, memorySource(bytes), {});
    await putBytes(target, layer.digest, bytes, signal);
    const written = { layer, blockDigests: BlockDigests.make(layer, blockDigests) };
    const source = images.place('app');
    const { layers } = await readSourceImage(components.hash, source, {
      ...{ stored: await source.resolve(signal), purpose: 'converted', signal },
    });
    const cache = new LayerCache(components, { target, open }, OPTIONS);
    for (const { chainId } of layers.slice(0, 2)) await cache.keep(chainId, written, signal);
    const warnings: string[] = [];
    const onWarning = (text: string) => void warnings.push(text);
    const made = await convert(source, target, { open, options: { onWarning } });
    const fresh = await convert(source, layoutPlace(tempFolder()));
    expect(made.digest).toBe(fresh.digest);
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain('is bad, and is made anew: ');
    const again = await convert(source, target, { open });
    expect(again.platforms[0]?.layers.every(({ isReused }) => isReused)).toBe(true);
  });

  it('converts each Linux image of an index, and says what it left out', async () => {
    const images = new SourceImages();
    const arm = await images.put(undefined, LAYERS.slice(0, 1), { architecture: 'arm64' });
    const amd = await images.put(undefined, LAYERS);
    const signature = await images.put(undefined, [], { architecture: 'unknown' });
    await images.putIndex('app', [
      { ...amd, platform: { os: 'linux', architecture: 'amd64' } },
      { ...arm, platform: { os: 'linux', architecture: 'arm64', variant: 'v8' } },
      { ...amd, platform: { os: 'windows', architecture: 'amd64' } },
      { ...signature, annotations: { 'vnd.docker.reference.type': 'attestation-manifest' } },
    ]);
    const folder = tempFolder();
    const result = await convert(images.place('app'), layoutPlace(folder));
    expect(result.platforms.map(({ platform }) => platform.architecture)).toEqual([
      'amd64',
      'arm64',
    ]);
    expect(result.leftOut.map(({ reason }) => reason)).toEqual([
      'it is made for windows, and block images hold ext4',
      'it describes another image of the index',
    ]);
    const index = await layoutPlace(folder).resolve(signal);
    const { manifests } = JSON.parse(Buffer.from(index.bytes).toString()) as {
      manifests: { platform: object; digest: string }[];
    };
    expect(manifests.map(({ platform }) => platform)).toEqual([
      { os: 'linux', architecture: 'amd64' },
      { os: 'linux', architecture: 'arm64', variant: 'v8' },
    ]);
    const one = { os: 'linux', architecture: 'arm64' };
    const arms = await convert(images.place('app'), layoutPlace(folder, 'arm'), {
      options: { platform: one },
    });
    expect(arms.digest).toBe(manifests[1]?.digest);
  });

  it('refuses a layer whose content is not what the config names, and puts nothing', async () => {
    const images = new SourceImages();
    const [lowest] = LAYERS;
    const diffId = digestOf(bytesOf('something else'));
    await images.put('app', [{ members: lowest?.members ?? [], diffId }]);
    const folder = tempFolder();
    const failed = convert(images.place('app'), layoutPlace(folder));
    await expect(failed).rejects.toThrow("but the image's config says");
    expect(readdirSync(folder)).toEqual([]);
  });

  it('refuses a block image, an artifact and an image without layers', async () => {
    const images = new SourceImages();
    await images.put('app', LAYERS.slice(0, 1));
    await images.put('empty', []);
    const folder = tempFolder();
    await convert(images.place('app'), layoutPlace(folder));
    const twice = convert(layoutPlace(folder), layoutPlace(tempFolder()));
    await expect(twice).rejects.toThrow('it is a block image already');
    const none = convert(images.place('empty'), layoutPlace(tempFolder()));
    await expect(none).rejects.toThrow('it has no layers');
  });

  it('stops when it is told to, and leaves no file', async () => {
    const images = new SourceImages();
    await images.put('app', LAYERS);
    const folder = tempFolder();
    const controller = new AbortController();
    const onProgress = (): void => controller.abort(new Error('stopped'));
    const options = { signal: controller.signal, onProgress };
    const made = convert(images.place('app'), layoutPlace(folder), { options });
    await expect(made).rejects.toThrow('stopped');
    expect(readdirSync(folder)).toEqual([]);
  });
});

describeWith('convertImage() and a registry', [...tools, needs.program('docker-registry')], () => {
  it('puts the image there as a referrer of the original, and finds its layers again', async () => {
    const images = new SourceImages();
    const original = await images.put('app', LAYERS);
    const host = await startDockerRegistry();
    const parts = placeComponents([host]);
    const open = (tag: string): RegistryPlace =>
      new RegistryPlace(parts, `docker://${host}/team/app:${tag}`);
    const options = { asReferrer: true };
    const first = await convert(images.place('app'), open('1-block'), { open, options });
    const found = await open('1').referrers(original.digest, ARTIFACT_TYPE, signal);
    expect(found.map(({ digest }) => digest)).toEqual([first.digest]);
    const stored = await open('1-block').resolve(signal);
    expect(stored.digest).toBe(first.digest);
    expect(readParts(stored).subject).toBe(original.digest);
    const second = await convert(images.place('app'), open('2-block'), { open, options });
    expect(second.digest).toBe(first.digest);
    expect(second.platforms[0]?.layers.every(({ isReused }) => isReused)).toBe(true);
  });

  it('lists the images of an index, and the index of block images, by both ways', async () => {
    const api = new PushRegistry({ listsReferrers: true, namesDigests: true });
    await api.start();
    onTestFinished(() => api.stop());
    const digests: string[] = [];
    for (const host of [await startDockerRegistry(), api.address]) {
      const images = new SourceImages();
      const amd = await images.put(undefined, LAYERS);
      const arm = await images.put(undefined, LAYERS.slice(0, 1), { architecture: 'arm64' });
      await images.putIndex('app', [
        { ...amd, platform: { os: 'linux', architecture: 'amd64' } },
        { ...arm, platform: { os: 'linux', architecture: 'arm64', variant: 'v8' } },
      ]);
      const parts = placeComponents([host]);
      const open = (tag: string): RegistryPlace =>
        new RegistryPlace(parts, `docker://${host}/team/app:${tag}`);
      const place = open('1');
      await copyImage(images.place('app'), place, { signal });
      const untagged = new RegistryPlace(parts, place.name, { isUntagged: true });
      const made = await convert(place, untagged, { open, options: { asReferrer: true } });
      const listed = async (digest: Digest): Promise<readonly Digest[]> =>
        (await place.referrers(digest, ARTIFACT_TYPE, signal)).map((each) => each.digest);
      const original = await place.resolve(signal);
      expect(await listed(original.digest)).toEqual([made.digest]);
      for (const { sourceDigest, manifest } of made.platforms) {
        expect(await listed(sourceDigest)).toEqual([manifest.digest]);
      }
      const index = await place.manifest(made.digest, signal);
      expect(readParts(index)).toMatchObject({
        ...{ subject: original.digest, artifactType: ARTIFACT_TYPE },
        manifests: made.platforms.map(({ manifest: { digest } }) => ({ digest })),
      });
      expect(api.manifests.has(`team/app ${referrersTag(original.digest)}`)).toBe(false);
      digests.push(made.digest);
    }
    expect(digests[0]).toBe(digests[1]);
  });

  it('says at once that the registry cannot be reached', async () => {
    const images = new SourceImages();
    await images.put('app', LAYERS);
    const parts = placeComponents(['127.0.0.1:1']);
    const target = new RegistryPlace(parts, 'docker://127.0.0.1:1/app:1');
    await expect(convert(images.place('app'), target)).rejects.toMatchObject({
      code: 'unavailable',
    });
  });
});
