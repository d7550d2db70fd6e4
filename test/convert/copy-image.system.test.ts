import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { copyImage } from '../../src/convert/copy-image.ts';
import { ArchiveSource } from '../../src/convert/places/archive-source.ts';
import { ArchiveTarget } from '../../src/convert/places/archive-target.ts';
import { LayoutPlace } from '../../src/convert/places/layout-place.ts';
import { RegistryPlace } from '../../src/convert/places/registry-place.ts';
import { readTag } from '../../src/convert/oci-layout.ts';
import { digestHex } from '../../src/image/digest.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { digestOf, putImage, putIndex } from '../kit/registry-content.ts';
import { RegistryProxy } from '../kit/registry-proxy.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { makeTarImage } from '../kit/tar-image.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { placeComponents } from './places/kit/components.ts';

const MIB = 1024 * 1024;
const { signal } = new AbortController();

function skopeo(...args: readonly string[]): string {
  return execFileSync('skopeo', ['--insecure-policy', ...args], { encoding: 'utf8' });
}

/** The digest of the manifest that skopeo reads. */
function inspected(image: string): string {
  return digestOf(Buffer.from(skopeo('inspect', '--raw', '--tls-verify=false', image)));
}

describeWith('copyImage()', [needs.program('docker-registry'), needs.program('skopeo')], () => {
  test('copies an image to a registry, from where skopeo reads the same', async () => {
    const host = await startDockerRegistry();
    const image = await makeTarImage([20 * MIB, 1000]);
    const components = placeComponents([host]);
    const name = `docker://${host}/team/app:1`;
    const target = new RegistryPlace(components, name);
    const copied = await copyImage(new LayoutPlace(components, `oci:${image.layout}:1`), target, {
      signal,
    });
    expect(copied).toMatchObject({ digest: image.digest, blobCount: 3, writtenCount: 3 });
    expect(inspected(name)).toBe(image.digest);
    const folder = join(tempFolder(), 'dir');
    skopeo('copy', '--preserve-digests', '--src-tls-verify=false', name, `dir:${folder}`);
    expect(digestOf(readFileSync(join(folder, 'manifest.json')))).toBe(image.digest);
    for (const { digest } of image.layers) {
      expect(digestOf(readFileSync(join(folder, digestHex(digest))))).toBe(digest);
    }
    const other = new RegistryPlace(components, `docker://${host}/other:2`);
    expect(await copyImage(target, other, { signal })).toMatchObject({ writtenCount: 0 });
    expect(inspected(`docker://${host}/other:2`)).toBe(image.digest);
  });

  test('goes on where the upload broke: before a proxy that holds chunks back', async () => {
    const host = await startDockerRegistry();
    const proxy = await RegistryProxy.start(host);
    const image = await makeTarImage([64 * MIB]);
    let [patches, sentBytes] = [0, 0];
    proxy.misbehave = (incoming) => {
      if (incoming.method !== 'PATCH' && incoming.method !== 'PUT') return false;
      incoming.on('data', (piece: Buffer) => {
        sentBytes += piece.length;
      });
      if (incoming.method !== 'PATCH' || ++patches !== 3) return false;
      let taken = 0;
      incoming.on('data', (piece: Buffer) => {
        taken += piece.length;
        if (taken > 8 * MIB) incoming.socket.destroy();
      });
      return true;
    };
    const components = placeComponents([proxy.address]);
    const source = new LayoutPlace(components, `oci:${image.layout}:1`);
    const target = new RegistryPlace(components, `docker://${proxy.address}/team/app:1`);
    const copied = await copyImage(source, target, { signal });
    expect(inspected(`docker://${host}/team/app:1`)).toBe(image.digest);
    expect(patches).toBeGreaterThan(3);
    expect(sentBytes / copied.blobBytes).toBeLessThan(1.3);
  });

  test('begins anew where the registry forgets an upload that broke within a chunk', async () => {
    const host = await startDockerRegistry();
    const proxy = await RegistryProxy.start(host);
    const image = await makeTarImage([40 * MIB]);
    let patches = 0;
    proxy.misbehave = (incoming, response) => {
      if (incoming.method !== 'PATCH' || ++patches !== 2) return false;
      let taken = 0;
      incoming.on('data', (piece: Buffer) => {
        taken += piece.length;
        if (taken > 8 * MIB) response.destroy();
      });
      return false;
    };
    const components = placeComponents([proxy.address]);
    const source = new LayoutPlace(components, `oci:${image.layout}:1`);
    const target = new RegistryPlace(components, `docker://${proxy.address}/team/app:1`);
    await copyImage(source, target, { signal });
    expect(inspected(`docker://${host}/team/app:1`)).toBe(image.digest);
  });

  test('keeps an index whole, or takes the image of one platform', async () => {
    const host = await startDockerRegistry();
    const base = `http://${host}/v2/team/app`;
    const images = [await putImage(base, 'a', [randomBytes(100)])];
    images.push(await putImage(base, 'b', [randomBytes(200)]));
    const entries = images.map(({ digest, bytes }, i) => ({
      ...{ digest, size: bytes.length },
      platform: { os: 'linux', architecture: ['amd64', 'arm64'][i] },
    }));
    const index = await putIndex(base, 'both', entries);
    const components = placeComponents([host]);
    const source = new RegistryPlace(components, `docker://${host}/team/app:both`);
    const directory = tempFolder();
    const whole = new LayoutPlace(components, `oci:${directory}:x`);
    const copied = await copyImage(source, whole, { signal });
    expect(copied).toMatchObject({ digest: index.digest, manifestCount: 3 });
    const back = new RegistryPlace(components, `docker://${host}/back:x`);
    await copyImage(whole, back, { signal });
    expect(inspected(`docker://${host}/back:x`)).toBe(index.digest);
    await expect(readTag({ directory, tag: 'x' })).rejects.toThrow(/several images; copy the one/);
    const platform = { os: 'linux', architecture: 'arm64' };
    const one = new LayoutPlace(components, `oci:${tempFolder()}:x`);
    expect((await copyImage(source, one, { signal, platform })).digest).toBe(images[1]?.digest);
    const s390x = { os: 'linux', architecture: 's390x' };
    await expect(copyImage(source, one, { signal, platform: s390x })).rejects.toMatchObject({
      code: 'no-platform',
    });
    const archive = `docker-archive:${join(tempFolder(), 'both.tar')}:app:1`;
    await copyImage(source, new ArchiveTarget(archive), { signal });
    const read = new ArchiveSource(components, archive);
    expect((await read.resolve(signal)).digest).toBe(index.digest);
  });

  test('lists referrers by a tag at a registry without such lists', async () => {
    const host = await startDockerRegistry();
    const components = placeComponents([host]);
    const base = `http://${host}/v2/team/app`;
    const image = await putImage(base, '1', [randomBytes(100)]);
    const mediaType = 'application/vnd.oci.image.manifest.v1+json';
    const config = Buffer.from('{}');
    const bytes = Buffer.from(
      JSON.stringify({
        ...{ schemaVersion: 2, mediaType, artifactType: 'example/signature' },
        config: { mediaType: 'application/json', digest: digestOf(config), size: 2 },
        layers: [],
        subject: { mediaType, digest: image.digest, size: image.bytes.length },
      }),
    );
    const source = new RegistryPlace(components, `docker://${host}/team/app:1`);
    await source.addReferrer({ mediaType, bytes, digest: digestOf(bytes) }, signal);
    const target = new LayoutPlace(components, `oci:${tempFolder()}:1`);
    const copied = await copyImage(source, target, { signal, withReferrers: true });
    expect(copied.referrerCount).toBe(1);
    const found = await target.referrers(image.digest, 'example/signature', signal);
    expect(found).toMatchObject([{ digest: digestOf(bytes), artifactType: 'example/signature' }]);
  });

  test('reads archives of skopeo and of newer versions of Docker, and writes such', async () => {
    const image = await makeTarImage([3 * MIB, 2000]);
    const components = placeComponents([]);
    const folder = tempFolder();
    const old = join(folder, 'old.tar');
    skopeo('copy', `oci:${image.layout}:1`, `docker-archive:${old}:team/app:1`);
    const fromOld = new LayoutPlace(components, `oci:${join(folder, 'a')}:1`);
    await copyImage(new ArchiveSource(components, `docker-archive:${old}`), fromOld, { signal });
    expect(layersOf(`oci:${join(folder, 'a')}:1`)).toEqual(
      image.layers.map(({ digest }) => digest),
    );
    const fresh = join(folder, 'new.tar');
    execFileSync('tar', ['-C', image.layout, '-cf', fresh, '.']);
    const fromNew = new ArchiveSource(components, `docker-archive:${fresh}`);
    expect((await fromNew.resolve(signal)).digest).toBe(image.digest);
    const written = `docker-archive:${join(folder, 'written.tar')}:team/app:1`;
    const layout = new LayoutPlace(components, `oci:${image.layout}:1`);
    await copyImage(layout, new ArchiveTarget(written), { signal });
    skopeo('copy', written, `oci:${join(folder, 'b')}:1`);
    expect(inspectedLayers(`oci:${join(folder, 'b')}:1`)).toBe(image.layers.length);
    skopeo('copy', '--preserve-digests', `oci:${untar(written)}:1`, `dir:${join(folder, 'c')}`);
    expect(digestOf(readFileSync(join(folder, 'c', 'manifest.json')))).toBe(image.digest);
  });
});

function layersOf(image: string): readonly string[] {
  const { layers } = JSON.parse(skopeo('inspect', '--raw', image)) as {
    layers: { digest: string }[];
  };
  return layers.map(({ digest }) => digest);
}

function inspectedLayers(image: string): number {
  return (JSON.parse(skopeo('inspect', image)) as { Layers: string[] }).Layers.length;
}

/** The folder with the files of the archive. */
function untar(archive: string): string {
  const folder = tempFolder();
  execFileSync('tar', ['-C', folder, '-xf', archive.split(':')[1] ?? '']);
  return folder;
}
