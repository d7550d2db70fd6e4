import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { BLOCK_IMAGE_DEFAULTS } from '../../src/convert/block-image-builder.ts';
import { convertImage } from '../../src/convert/convert-image.ts';
import { putBlob, tagManifest } from '../../src/convert/oci-layout.ts';
import { LayoutPlace } from '../../src/convert/places/layout-place.ts';
import { NodeDecompressor } from '../../src/runtime/node/decompressor.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { codec } from '../kit/layers.ts';
import { digestOf } from '../kit/registry-content.ts';
import { bytesOf, member } from '../kit/tar-encoder.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { SourceImages } from './kit/source-images.ts';

const components = { codec, hash: new NodeHash(), decompressor: new NodeDecompressor() };
const LAYER = { members: [member({ path: 'file' }, bytesOf('text'))] };
const { signal } = new AbortController();

function convert(images: SourceImages): Promise<unknown> {
  const workFolder = tempFolder();
  const target = new LayoutPlace(components, `oci:${join(workFolder, 'target')}:block`);
  return convertImage(
    components,
    { source: images.place('app'), target, cache: undefined, workFolder },
    { ...BLOCK_IMAGE_DEFAULTS, signal, platform: undefined, asReferrer: false },
  );
}

describe('a hostile manifest', () => {
  it.each([
    ['an object as a layer', '[{"toString":1}]', 'names {"toString":1} as a layer'],
    ['a title for the terminal', '["\\u001b]0;x"]', 'names "\\u001b]0;x" as a layer'],
    ['nothing as a layer', '[null]', 'names null as a layer'],
  ])('whose config has %s is refused', async (_, diffIds, reason) => {
    const images = await imageWith(`{"rootfs":{"diff_ids":${diffIds}}}`);
    await expect(convert(images)).rejects.toThrow(reason);
  });

  it('whose config is nested too deeply to be written again is refused', async () => {
    const deep = '['.repeat(200_000) + ']'.repeat(200_000);
    const images = await imageWith(`{"deep":${deep}}`);
    await expect(convert(images)).rejects.toMatchObject({ code: 'manifest' });
  });

  it('that is for another system is left out, whatever type its name has', async () => {
    const images = new SourceImages();
    const entry = await images.put(undefined, [LAYER]);
    const os = { toString: 1 };
    await images.putIndex('app', [{ ...entry, platform: { os, architecture: '\u001b[2J' } }]);
    await expect(convert(images)).rejects.toThrow('has no image for Linux');
  });

  it('that lists more images than may be is refused before the first one is made', async () => {
    const images = new SourceImages();
    const entry = await images.put(undefined, [LAYER]);
    await images.putIndex('app', Array.from({ length: 4097 }).fill(entry) as object[]);
    await expect(convert(images)).rejects.toThrow('manifests is no list of at most 4096 entries');
  });

  it('that is an index within an index is called so', async () => {
    const images = new SourceImages();
    await images.putIndex('inner', [await images.put(undefined, [LAYER])]);
    const { digest, bytes, mediaType } = await images.place('inner').resolve(signal);
    await images.putIndex('app', [{ digest, size: bytes.length, mediaType }]);
    await expect(convert(images)).rejects.toThrow('it is an index within an index');
  });
});

/** An image of one layer whose config is this text. */
async function imageWith(config: string): Promise<SourceImages> {
  const images = new SourceImages();
  await images.put('plain', [LAYER]);
  const { bytes } = await images.place('plain').resolve(signal);
  const plain = JSON.parse(new TextDecoder().decode(bytes)) as { readonly config: object };
  const put = async (text: string) => {
    const content = bytesOf(text);
    const digest = digestOf(content);
    await putBlob(images.directory, digest, content);
    return { digest, size: content.length };
  };
  const named = { ...plain.config, ...(await put(config)) };
  const manifest = await put(JSON.stringify({ ...plain, config: named }));
  await tagManifest({ directory: images.directory, tag: 'app' }, manifest);
  return images;
}
