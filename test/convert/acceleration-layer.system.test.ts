import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { convertDirectory } from '../../src/convert/convert-directory.ts';
import { LayoutPlace } from '../../src/convert/places/layout-place.ts';
import { blobPath } from '../../src/convert/oci-layout.ts';
import { verifyImage } from '../../src/convert/verify-image.ts';
import { BlockDigests, digestedLayers } from '../../src/image/block-digests.ts';
import { BLOCK_SIZE_BYTES, blockCount, blockIndex } from '../../src/image/block.ts';
import { digestHex, type Digest } from '../../src/image/digest.ts';
import { blockLayers, parseManifest } from '../../src/image/manifest.ts';
import { parseTrace } from '../../src/image/trace.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { defined } from '../../src/util/assert.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { codec, sampleBytes } from '../kit/layers.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';

const hash = new NodeHash();
const programs = ['mke2fs', 'skopeo', 'docker-registry'].map((name) => needs.program(name));

/** A converted image in its own layout. */
async function convert(): Promise<{ folder: string; layout: string; manifestDigest: Digest }> {
  const folder = tempFolder();
  const [rootfs, layout] = [join(folder, 'rootfs'), join(folder, 'layout')];
  mkdirSync(rootfs);
  writeFileSync(join(rootfs, 'data'), sampleBytes(1_500_000, 4));
  const target = new LayoutPlace({ hash }, `oci:${layout}:a`);
  const { digest: manifestDigest } = await convertDirectory({ codec, hash }, rootfs, target);
  return { folder, layout, manifestDigest };
}

describeWith('makeAccelerationLayer()', programs, () => {
  it('ships the digests of all blocks of the layer', async () => {
    const { layout, manifestDigest } = await convert();
    const manifest = parseManifest(readFileSync(blobPath(layout, manifestDigest)));
    const [layer] = digestedLayers(manifest);
    const { blob, holder, offset, sizeBytes } = defined(layer, 'a layer with digests');
    expect(blockLayers(manifest)).toEqual([blob]);
    expect(manifest.layers[1]).toMatchObject({ digest: holder.digest, size: holder.sizeBytes });
    const tar = readFileSync(blobPath(layout, holder.digest));
    const bytes = tar.subarray(offset, offset + sizeBytes);
    const digests = BlockDigests.parse(hash, defined(layer, 'a layer'), bytes);
    const data = readFileSync(blobPath(layout, blob.digest));
    for (let i = 0; i < blockCount(blob.sizeBytes); i++) {
      const block = data.subarray(i * BLOCK_SIZE_BYTES, (i + 1) * BLOCK_SIZE_BYTES);
      expect(digests.matches(blockIndex(i), hash.blake3(block))).toBe(true);
    }
  });

  it('makes a tar that tar lists, with a trace without accesses', async () => {
    const { layout, manifestDigest } = await convert();
    const manifest = parseManifest(readFileSync(blobPath(layout, manifestDigest)));
    const { blob, holder } = defined(digestedLayers(manifest)[0], 'a layer with digests');
    const path = blobPath(layout, holder.digest);
    const list = execFileSync('tar', ['-tf', path], { encoding: 'utf8' });
    expect(list).toBe(`trace\nblock-digests/${digestHex(blob.digest)}\n`);
    const trace = execFileSync('tar', ['-xOf', path, 'trace']);
    expect(parseTrace(trace, codec)).toEqual([]);
  });

  it('is checked by verifyImage()', async () => {
    const { layout, manifestDigest } = await convert();
    const target = { directory: layout, tag: 'a' };
    const [good] = await verifyImage({ codec, hash }, target);
    expect(good).toMatchObject({ hasBlockDigests: true, result: { isCovered: true } });
    const manifest = parseManifest(readFileSync(blobPath(layout, manifestDigest)));
    const { holder, offset } = defined(digestedLayers(manifest)[0], 'a layer with digests');
    const path = blobPath(layout, holder.digest);
    const tar = readFileSync(path);
    tar[offset + 64]! ^= 1;
    writeFileSync(path, tar);
    const [bad] = await verifyImage({ codec, hash }, target);
    expect(bad).toMatchObject({ result: { code: 'damaged' } });
    expect(String(bad?.result)).toMatch(/their BLAKE3 is not/);
  });

  it('survives a copy by skopeo to a registry and back', async () => {
    const { folder, layout, manifestDigest } = await convert();
    const registry = await startDockerRegistry();
    const copy = (from: string, to: string): Buffer =>
      execFileSync('skopeo', [
        ...['copy', '--insecure-policy', '--preserve-digests'],
        ...['--src-tls-verify=false', '--dest-tls-verify=false'],
        ...[from, to],
      ]);
    copy(`oci:${layout}:a`, `docker://${registry}/app:a`);
    const back = join(folder, 'back');
    copy(`docker://${registry}/app:a`, `oci:${back}:a`);
    const manifest = parseManifest(readFileSync(blobPath(back, manifestDigest)));
    const layer = defined(digestedLayers(manifest)[0], 'a layer with digests');
    const tar = readFileSync(blobPath(back, layer.holder.digest));
    const bytes = tar.subarray(layer.offset, layer.offset + layer.sizeBytes);
    expect(() => BlockDigests.parse(hash, layer, bytes)).not.toThrow();
  });
});
