import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { findBlockImage } from '../../src/convert/block-image.ts';
import { BLOCK_IMAGE_DEFAULTS } from '../../src/convert/block-image-builder.ts';
import { choosePlatform } from '../../src/convert/choose-platform.ts';
import { convertImage } from '../../src/convert/convert-image.ts';
import { copyImage } from '../../src/convert/copy-image.ts';
import { putBlob, tagManifest } from '../../src/convert/oci-layout.ts';
import { LayoutPlace } from '../../src/convert/places/layout-place.ts';
import type { Platform } from '../../src/registry/platform.ts';
import { NodeDecompressor } from '../../src/runtime/node/decompressor.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { codec } from '../kit/layers.ts';
import { digestOf } from '../kit/registry-content.ts';
import { bytesOf, member } from '../kit/tar-encoder.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { SourceImages } from './kit/source-images.ts';

const components = { codec, hash: new NodeHash(), decompressor: new NodeDecompressor() };
const { signal } = new AbortController();
const LAYERS = [{ members: [member({ path: 'file' }, bytesOf('text'))] }];
const AMD: Platform = { os: 'linux', architecture: 'amd64' };
const ARM: Platform = { os: 'linux', architecture: 'arm64' };
const ARM_V8: Platform = { ...ARM, variant: 'v8' };
const WRONG = {
  code: 'no-platform',
  message: expect.stringMatching(/arm64, not for linux\/amd64$/),
};

async function choose(images: SourceImages, platform: Platform) {
  const place = images.place('app');
  return choosePlatform(place, await place.resolve(signal), { platform, signal });
}

describe('choosePlatform()', () => {
  it.each<[object, Platform]>([
    [{ architecture: 'arm64' }, ARM],
    [{ architecture: 'arm64' }, ARM_V8],
    [{ architecture: 'arm64', variant: 'v8' }, ARM],
    [{ architecture: 'arm64', variant: 'v8' }, ARM_V8],
    [{ architecture: undefined }, ARM],
  ])('takes an image whose config says %j', async (config, platform) => {
    const images = new SourceImages();
    const { digest } = await images.put('app', LAYERS, { ...config });
    expect((await choose(images, platform)).digest).toBe(digest);
  });

  it.each<[object, Platform, RegExp]>([
    [{ architecture: 'arm64' }, AMD, /is made for linux\/arm64, not for linux\/amd64$/],
    [{ architecture: 'amd64', os: 'windows' }, AMD, /for windows\/amd64, not for linux\/amd64$/],
    [{ architecture: 'arm', variant: 'v6' }, { ...ARM_V8, architecture: 'arm' }, /arm\/v6, not/],
  ])('refuses an image whose config says %j', async (config, platform, message) => {
    const images = new SourceImages();
    await images.put('app', LAYERS, { ...config });
    await expect(choose(images, platform)).rejects.toMatchObject({
      code: 'no-platform',
      message: expect.stringMatching(message) as string,
    });
  });

  it('takes the word of an index, and of an index in it', async () => {
    const images = new SourceImages();
    const { digest, ...entry } = await images.put(undefined, LAYERS, { architecture: 'amd64' });
    await images.putIndex('inner', [{ ...entry, digest, platform: ARM }]);
    const inner = await images.place('inner').resolve(signal);
    const { mediaType, bytes } = inner;
    const described = { mediaType, digest: inner.digest, size: bytes.length };
    await images.putIndex('app', [{ ...described, platform: ARM }]);
    expect((await choose(images, ARM)).digest).toBe(digest);
    await expect(choose(images, AMD)).rejects.toThrow('has no image for linux/amd64; it has: lin');
  });

  it('takes what is no image: it is made for no platform', async () => {
    const images = new SourceImages();
    const manifest = bytesOf('{"schemaVersion":2,"layers":[]}');
    const digest = digestOf(manifest);
    await images.put('other', LAYERS);
    await putBlob(images.directory, digest, manifest);
    const tag = { directory: images.directory, tag: 'app' };
    await tagManifest(tag, { digest, size: manifest.length });
    expect((await choose(images, ARM)).digest).toBe(digest);
  });
});

describe('commands with --platform', () => {
  it('refuse an image for another one before they write anything', async () => {
    const images = new SourceImages();
    await images.put('app', LAYERS, { architecture: 'arm64' });
    const workFolder = tempFolder();
    const source = images.place('app');
    const target = new LayoutPlace(components, `oci:${join(workFolder, 'target')}:1`);
    const places = { source, target, cache: undefined, workFolder };
    const options = { ...BLOCK_IMAGE_DEFAULTS, signal, platform: AMD, asReferrer: false };
    await expect(convertImage(components, places, options)).rejects.toMatchObject(WRONG);
    await expect(copyImage(source, target, options)).rejects.toMatchObject(WRONG);
    await expect(findBlockImage(source, options)).rejects.toMatchObject(WRONG);
    await expect(target.resolve(signal)).rejects.toThrow('has no image with the tag 1');
  });
});
