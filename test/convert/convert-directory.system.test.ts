import { spawnSync } from 'node:child_process';
import {
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { convertDirectory } from '../../src/convert/convert-directory.ts';
import { LayoutPlace } from '../../src/convert/places/layout-place.ts';
import { LocalFile } from '../../src/convert/files.ts';
import { flattenLayers } from '../../src/convert/flatten.ts';
import { blobPath } from '../../src/convert/oci-layout.ts';
import { openLayer } from '../../src/image/layer.ts';
import { blockLayers, OVERLAYBD_ANNOTATION, parseManifest } from '../../src/image/manifest.ts';
import { verifyLayer } from '../../src/image/verify.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { codec, sampleBytes } from '../kit/layers.ts';
import { describeWith, needs } from '../kit/requires.ts';

const components = { codec, hash: new NodeHash() };
let folder: string;
let rootfs: string;
let layout: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'xylem-convert-'));
  [rootfs, layout] = [join(folder, 'rootfs'), join(folder, 'layout')];
  mkdirSync(join(rootfs, 'usr/bin'), { recursive: true });
  writeFileSync(join(rootfs, 'usr/bin/tool'), sampleBytes(3_000_000, 1));
  writeFileSync(join(rootfs, 'empty'), '');
  writeFileSync(join(rootfs, 'zeros'), Buffer.alloc(5_000_000));
  symlinkSync('usr/bin/tool', join(rootfs, 'link'));
});

afterEach(() => rmSync(folder, { recursive: true }));

function place(tag: string): LayoutPlace {
  return new LayoutPlace(components, `oci:${layout}:${tag}`);
}

const bytesOf = (text: string): Buffer => Buffer.from(text, 'latin1');

/** Names in the layout that do not belong to an image. */
function leftovers(): string[] {
  return readdirSync(layout).filter(
    (name) => !['blobs', 'oci-layout', 'index.json'].includes(name),
  );
}

describeWith('convertDirectory()', [needs.program('mke2fs'), needs.program('debugfs')], () => {
  it('makes a layer with the content of the directory', async () => {
    const image = await convertDirectory(components, rootfs, place('a'));
    const path = blobPath(layout, image.layer.digest);
    const blob = readFileSync(path);
    expect(blob).toHaveLength(image.layer.sizeBytes);
    expect(`sha256:${Buffer.from(components.hash.sha256(blob)).toString('hex')}`).toBe(
      image.layer.digest,
    );
    expect(blob.length).toBeLessThan(4_000_000);
    const disk = join(folder, 'disk');
    const flat = await flattenLayers({ codec }, [path], disk);
    expect(flat.sizeBytes).toBe(image.deviceBytes);
    const copy = join(folder, 'copy');
    spawnSync('/usr/sbin/debugfs', ['-R', `dump /usr/bin/tool ${copy}`, disk]);
    expect(readFileSync(copy).equals(readFileSync(join(rootfs, 'usr/bin/tool')))).toBe(true);
    const check = spawnSync('/usr/sbin/e2fsck', ['-fn', disk]);
    expect(check.status).toBe(0);
    expect(leftovers()).toEqual([]);
  });

  it('keeps names that are no text, of files, folders, links and hard links', async () => {
    const name = (text: string): Buffer =>
      Buffer.concat([Buffer.from(`${rootfs}/`), bytesOf(text)]);
    mkdirSync(name('d\xe9'));
    writeFileSync(name('caf\xe9'), 'one');
    writeFileSync(name('d\xe9/\xff\xfe'), 'two');
    linkSync(name('caf\xe9'), name('d\xe9/hard\x80'));
    symlinkSync(bytesOf('caf\xe9'), name('link\xc3'));
    const image = await convertDirectory(components, rootfs, place('names'));
    const disk = join(folder, 'disk');
    await flattenLayers({ codec }, [blobPath(layout, image.layer.digest)], disk);
    const debugfs = (request: string): string => {
      const commands = join(folder, 'commands');
      writeFileSync(commands, bytesOf(`${request}\n`));
      return spawnSync('/usr/sbin/debugfs', ['-f', commands, disk]).stdout.toString('latin1');
    };
    expect(debugfs('cat "/caf\xe9"')).toMatch(/one$/);
    expect(debugfs('cat "/d\xe9/\xff\xfe"')).toMatch(/two$/);
    expect(debugfs('cat "/d\xe9/hard\x80"')).toMatch(/one$/);
    expect(debugfs('stat "/link\xc3"')).toContain('Fast link dest: "caf\xe9"');
    expect(spawnSync('/usr/sbin/e2fsck', ['-fn', disk]).status).toBe(0);
  });

  it('describes the layer as overlaybd does', async () => {
    const image = await convertDirectory(components, rootfs, place('a'));
    const manifest = parseManifest(readFileSync(blobPath(layout, image.digest)));
    expect(blockLayers(manifest)).toEqual([image.layer]);
    expect(manifest.layers[0]?.annotations).toMatchObject({
      [`${OVERLAYBD_ANNOTATION}blob-digest`]: image.layer.digest,
      [`${OVERLAYBD_ANNOTATION}blob-size`]: String(image.layer.sizeBytes),
      [`${OVERLAYBD_ANNOTATION}version`]: '0.1.0',
    });
    const config = JSON.parse(readFileSync(blobPath(layout, manifest.config.digest), 'utf8')) as {
      rootfs: unknown;
    };
    const { accelerationLayer } = image;
    expect(config.rootfs).toEqual({
      type: 'layers',
      diff_ids: [image.layer.digest, accelerationLayer.digest],
    });
    const file = await LocalFile.open(blobPath(layout, image.layer.digest), 'read');
    try {
      const layer = await openLayer(file, codec);
      expect(layer.virtualSizeBytes).toBe(image.deviceBytes);
      expect((await verifyLayer(layer, codec)).isCovered).toBe(true);
    } finally {
      await file.close();
    }
  });

  it('gives the same digests again, and others for other content', async () => {
    const one = await convertDirectory(components, rootfs, place('a'));
    const two = await convertDirectory(components, rootfs, place('b'));
    expect(two).toEqual(one);
    writeFileSync(join(rootfs, 'empty'), 'x');
    const three = await convertDirectory(components, rootfs, place('a'));
    expect(three.layer.digest).not.toBe(one.layer.digest);
    const index = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')) as {
      manifests: { digest: string; annotations: Record<string, string> }[];
    };
    const tags = index.manifests.map((entry) => [
      Object.values(entry.annotations)[0],
      entry.digest,
    ]);
    expect(tags).toEqual([
      ['b', one.digest],
      ['a', three.digest],
    ]);
  });

  it('leaves nothing behind when it is stopped', async () => {
    const controller = new AbortController();
    const onProgress = (): void => controller.abort(new Error('stopped'));
    const work = join(folder, 'work');
    mkdirSync(work);
    const options = { signal: controller.signal, onProgress, workDirectory: work };
    const made = convertDirectory(components, rootfs, place('a'), options);
    await expect(made).rejects.toThrow('stopped');
    expect(existsSync(layout)).toBe(false);
    expect(readdirSync(work)).toEqual([]);
  });
});
