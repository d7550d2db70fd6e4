import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { BLOCK_IMAGE_DEFAULTS } from '../../src/convert/block-image-builder.ts';
import { checkImage } from '../../src/convert/check-image.ts';
import { convertImage } from '../../src/convert/convert-image.ts';
import { exportImage, type ExportOptions } from '../../src/convert/export-image.ts';
import { blobPath, prepareLayout, putBlob, tagManifest } from '../../src/convert/oci-layout.ts';
import { LayoutPlace } from '../../src/convert/places/layout-place.ts';
import type { Digest } from '../../src/image/digest.ts';
import {
  CONFIG_MEDIA_TYPE,
  LAYER_MEDIA_TYPE,
  MANIFEST_MEDIA_TYPES,
  OVERLAYBD_ANNOTATION,
  parseManifest,
} from '../../src/image/manifest.ts';
import { NodeDecompressor } from '../../src/runtime/node/decompressor.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { factsOfFolder, python } from '../kit/file-trees.ts';
import { codec } from '../kit/layers.ts';
import { putLayout } from '../kit/oci-layout.ts';
import { digestOf } from '../kit/registry-content.ts';
import { describeWith, FIXTURES, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { HARD_FILES, tarOfFolder } from './kit/hard-files.ts';

const parts = { codec, hash: new NodeHash(), decompressor: new NodeDecompressor() };
const { signal } = new AbortController();

const UPPER = String.raw`
import os
os.makedirs('usr/bin'); open('.wh.gone', 'w'); open('usr/bin/new', 'w').write('new')
os.makedirs('empty'); open('empty/.wh..wh..opq', 'w')
`;

const TOP = String.raw`
import os
os.makedirs('usr/bin'); open('usr/bin/new', 'w').write('newer'); open('usr/bin/.wh.link', 'w')
os.makedirs('far'); open('far/in', 'w').write('a directory now'); open('empty', 'w').write('file')
open('sparse', 'w').write('small'); os.link('sparse', 'again')
os.makedirs('d' * 200); open('d' * 200 + '/.wh..wh..opq', 'w'); open('d' * 200 + '/x', 'w')
os.utime('usr/bin', (7, 7)); os.utime('usr', (8, 8)); os.utime('d' * 200, (9, 9))
`;

/** An image of these layers, unpacked by umoci. */
function unpacked(layout: string, tag: string, folder: string) {
  const bundle = join(folder, `bundle-${tag}`);
  execFileSync('umoci', ['raw', 'unpack', '--image', `${layout}:${tag}`, bundle], {
    stdio: 'pipe',
  });
  const facts = factsOfFolder(bundle);
  const root = facts[''];
  // umoci gives the root the time at which it unpacked it when no layer has one.
  return { ...facts, '': { ...root, mtime: '' } };
}

/** An ordinary image of these layers, as tag `plain`, and a block image of it, as `block`. */
async function makeImages(programs: readonly string[]) {
  const folder = tempFolder();
  const tars = programs.map((program, i) => {
    const path = join(folder, `layer-${i}`);
    mkdirSync(path);
    python(path, program);
    return tarOfFolder(path);
  });
  const layout = join(folder, 'layout');
  await putLayout(layout, 'plain', tars);
  const place = (tag: string) => new LayoutPlace(parts, `oci:${layout}:${tag}`);
  let count = 0;
  const work = (): string => {
    const path = join(folder, `work-${count++}`);
    mkdirSync(path);
    return path;
  };
  const convert = (from: string, to: string) =>
    convertImage(
      parts,
      { source: place(from), target: place(to), cache: undefined, workFolder: work() },
      {
        ...BLOCK_IMAGE_DEFAULTS,
        ...{ deviceBytes: 2 ** 30, signal, platform: undefined, asReferrer: false },
      },
    );
  await convert('plain', 'block');
  const make = (tag: string, options: Pick<ExportOptions, 'compression' | 'inLayers'>) =>
    exportImage(
      parts,
      { source: place('block'), target: place(tag), workFolder: work() },
      { signal, platform: undefined, ...options },
    );
  const configOf = (digest: Digest): unknown => {
    const { config } = parseManifest(readFileSync(blobPath(layout, digest)));
    return JSON.parse(readFileSync(blobPath(layout, config.digest), 'utf8'));
  };
  return { folder, layout, tars, place, work, convert, make, configOf };
}

const NEEDS = [needs.root, ...['mke2fs', 'umoci', 'python3', 'tar'].map(needs.program)];

describeWith('exportImage()', NEEDS, () => {
  test('gives back what the original unpacks to, with the same digests each time', async () => {
    const { folder, layout, make, configOf } = await makeImages([HARD_FILES, UPPER]);
    const [first, second, packed] = [
      await make('gzip', { compression: 'gzip', inLayers: false }),
      await make('again', { compression: 'gzip', inLayers: false }),
      await make('zstd', { compression: 'zstd', inLayers: false }),
    ];
    expect(second).toEqual(first);
    const [{ diffId } = { diffId: undefined }] = first.layers;
    expect(packed.layers).toMatchObject([{ diffId }]);
    expect(packed.digest).not.toBe(first.digest);
    const wanted = unpacked(layout, 'plain', folder);
    expect(unpacked(layout, 'gzip', folder)).toEqual(wanted);
    // This umoci knows no zstd.
    const tar = zstdDecompressSync(readFileSync(blobPath(layout, packed.layers[0]!.digest)));
    expect(digestOf(tar)).toBe(diffId);
    expect(configOf(first.digest)).toMatchObject({
      ...{ os: 'linux', architecture: 'amd64' },
      rootfs: { type: 'layers', diff_ids: [diffId] },
    });
  });

  test('gives as many layers as the original has, each on those before', async () => {
    const made = await makeImages([HARD_FILES, UPPER, TOP]);
    const { folder, layout, tars, place, make, configOf } = made;
    const options = { compression: 'gzip', inLayers: true } as const;
    const image = await make('layers', options);
    expect(await make('again', options)).toEqual(image);
    expect(image.layers).toHaveLength(3);
    const exported = image.layers.map(({ digest, diffId }) => {
      const tar = new Uint8Array(gunzipSync(readFileSync(blobPath(layout, digest))));
      expect(digestOf(tar)).toBe(diffId);
      return tar;
    });
    for (const count of [1, 2, 3]) {
      await putLayout(layout, `plain-${count}`, tars.slice(0, count));
      await putLayout(layout, `export-${count}`, exported.slice(0, count));
      const wanted = unpacked(layout, `plain-${count}`, folder);
      expect(unpacked(layout, `export-${count}`, folder), `layer ${count}`).toEqual(wanted);
    }
    // What did not change is not in the upper layers: the tool alone has 3 MB.
    for (const { sizeBytes } of image.layers.slice(1)) expect(sizeBytes).toBeLessThan(5000);
    const config = configOf(image.digest) as { history: { empty_layer?: boolean }[] };
    expect(config).toMatchObject({ rootfs: { diff_ids: image.layers.map((each) => each.diffId) } });
    expect(config.history.map((step) => step.empty_layer === true)).toEqual([
      ...[false, false, false, true],
    ]);

    await made.convert('layers', 'block-again');
    const checks = await checkImage(
      parts,
      { image: place('block-again'), original: place('plain'), workFolder: made.work() },
      { signal },
    );
    expect(checks).toMatchObject([{ comparison: { differenceCount: 0 } }]);
    const again = await make('round', options);
    expect(again.layers).toEqual(image.layers);
  });
});

describeWith('exportImage()', [needs.fixtures, ...NEEDS], () => {
  test("gives the layers of an image that overlaybd's tools made", async () => {
    const folder = tempFolder();
    const names = [0, 1, 2].map((i) => join(FIXTURES, 'layers', `layer${i}.overlaybd.commit`));
    const layout = join(folder, 'layout');
    const digest = await putBlockImage(layout, 'block', names);
    const place = (tag: string) => new LayoutPlace(parts, `oci:${layout}:${tag}`);
    expect((await place('block').resolve(signal)).digest).toBe(digest);
    const image = await exportImage(
      parts,
      { source: place('block'), target: place('layers'), workFolder: folder },
      { signal, platform: undefined, compression: 'gzip', inLayers: true },
    );
    expect(image.layers).toHaveLength(3);
    const tars = [0, 1, 2].map((i) => {
      return new Uint8Array(readFileSync(join(FIXTURES, 'tars', `layer${i}.tar`)));
    });
    await putLayout(layout, 'plain', tars);
    expect(unpacked(layout, 'layers', folder)).toEqual(unpacked(layout, 'plain', folder));
  });
});

/** Puts an image of these block layers into a layout, as overlaybd's own tools describe it. */
async function putBlockImage(
  layout: string,
  tag: string,
  paths: readonly string[],
): Promise<Digest> {
  await prepareLayout(layout);
  const put = async (bytes: Uint8Array): Promise<{ digest: Digest; size: number }> => {
    const digest = digestOf(bytes);
    await putBlob(layout, digest, bytes);
    return { digest, size: bytes.length };
  };
  const layers = [];
  for (const path of paths) {
    const { digest, size } = await put(new Uint8Array(readFileSync(path)));
    const annotations = {
      [`${OVERLAYBD_ANNOTATION}blob-digest`]: digest,
      [`${OVERLAYBD_ANNOTATION}blob-size`]: String(size),
    };
    layers.push({ mediaType: LAYER_MEDIA_TYPE, digest, size, annotations });
  }
  const rootfs = { type: 'layers', diff_ids: layers.map(({ digest }) => digest) };
  const config = await put(
    Buffer.from(JSON.stringify({ os: 'linux', architecture: 'amd64', rootfs })),
  );
  const mediaType = MANIFEST_MEDIA_TYPES[0];
  const manifest = await put(
    Buffer.from(
      JSON.stringify({
        ...{ schemaVersion: 2, mediaType, layers },
        config: { mediaType: CONFIG_MEDIA_TYPE, ...config },
      }),
    ),
  );
  await tagManifest({ directory: layout, tag }, manifest);
  return manifest.digest;
}
