import { expect, test } from 'vitest';
import { MANIFEST_MEDIA_TYPES } from '../../src/image/manifest.ts';
import type { RegistryConfig } from '../../src/registry/registries.ts';
import { makeCertificates } from '../support/certificates.ts';
import { startDockerRegistry } from '../support/docker-registry.ts';
import { sampleBytes } from '../support/layers.ts';
import { digestOf, putImage, putIndex } from '../support/registry-content.ts';
import { describeWith, needs } from '../support/requires.ts';
import { tempFolder } from '../support/temp-folder.ts';
import { startTokenServer } from '../support/token-server.ts';
import { makeClient } from './rig.ts';

const amd64 = { os: 'linux', architecture: 'amd64' };
const layer = sampleBytes(700_000, 1);
const user = { username: 'reader', password: 'pass:word' };

/** A folder that a registry keeps the image `team/app:1` in. */
async function filledStorage(): Promise<string> {
  const storage = tempFolder();
  const address = await startDockerRegistry({ storage });
  await putImage(`http://${address}/v2/team/app`, '1', [layer]);
  return storage;
}

/** Reads the image and a part of its layer; throws what the client does. */
async function pull(host: string, config: Omit<RegistryConfig, 'host'>): Promise<void> {
  const client = makeClient([{ host, ...config }]);
  const { bytes, origin } = await client.resolve(`${host}/team/app:1`, amd64);
  const manifest = JSON.parse(new TextDecoder().decode(bytes)) as { layers: { digest: string }[] };
  expect(manifest.layers[0]?.digest).toBe(digestOf(layer));
  expect(await client.blobSize(origin, digestOf(layer))).toBe(layer.length);
  const blob = { digest: digestOf(layer), sizeBytes: layer.length, origin };
  const target = new Uint8Array(300_000);
  await client.readBlobInto(blob, 262_144, target);
  expect(Buffer.from(target).equals(layer.subarray(262_144, 562_144))).toBe(true);
}

describeWith('with a real registry', [needs.program('docker-registry')], () => {
  test('RegistryClient reads an image, parts of a blob and its size, anonymously', async () => {
    const address = await startDockerRegistry({ storage: await filledStorage() });
    await pull(address, { insecure: true });
  });

  test('RegistryClient.resolve() takes the manifest of the platform from an index', async () => {
    const address = await startDockerRegistry();
    const base = `http://${address}/v2/team/app`;
    const arm = await putImage(base, 'arm', [sampleBytes(100, 1)]);
    const amd = await putImage(base, 'amd', [sampleBytes(100, 2)]);
    const entry = ({ digest, bytes }: typeof arm, architecture: string) => ({
      digest,
      size: bytes.length,
      platform: { os: 'linux', architecture },
    });
    await putIndex(base, 'both', [entry(arm, 'arm64'), entry(amd, 'amd64')]);
    const client = makeClient([{ host: address, insecure: true }]);
    const found = await client.resolve(`${address}/team/app:both`, amd64);
    expect(found.digest).toBe(amd.digest);
    const s390x = { os: 'linux', architecture: 's390x' };
    await expect(client.resolve(`${address}/team/app:both`, s390x)).rejects.toMatchObject({
      code: 'no-platform',
      message: expect.stringContaining('linux/arm64, linux/amd64') as string,
    });
  });

  test('RegistryClient says what is not there', async () => {
    const address = await startDockerRegistry({ storage: await filledStorage() });
    const client = makeClient([{ host: address, insecure: true }]);
    const missing = digestOf(sampleBytes(10, 9));
    await expect(client.resolve(`${address}/team/app:2`, amd64)).rejects.toMatchObject({
      code: 'not-found',
    });
    const origin = { registry: address, repository: 'team/app' };
    await expect(client.blobSize(origin, missing)).rejects.toMatchObject({ code: 'not-found' });
    const beyond = { digest: digestOf(layer), sizeBytes: layer.length + 1, origin };
    const read = client.readBlobInto(beyond, layer.length, new Uint8Array(1));
    await expect(read).rejects.toMatchObject({ code: 'protocol' });
  });

  describeWith('with passwords', [needs.program('htpasswd')], () => {
    test('RegistryClient answers a Basic challenge', async () => {
      const address = await startDockerRegistry({ storage: await filledStorage(), htpasswd: user });
      await pull(address, { insecure: true, credentials: async () => user });
    });

    test('RegistryClient puts an image into a registry, and sends no blob twice', async () => {
      const host = await startDockerRegistry({ htpasswd: user });
      const registries = [{ host, insecure: true, credentials: async () => user }];
      const client = makeClient(registries);
      const origin = { registry: host, repository: 'team/app' };
      const config = Buffer.from('{}');
      for (const bytes of [layer, config]) {
        const blob = { digest: digestOf(bytes), sizeBytes: bytes.length, origin };
        expect(await client.pushBlob(blob, () => pieces(bytes))).toBe(true);
        expect(await client.pushBlob(blob, () => pieces(bytes))).toBe(false);
      }
      const bytes = Buffer.from(JSON.stringify(manifestOf(config, layer)));
      const mediaType = MANIFEST_MEDIA_TYPES[0];
      const digest = await client.pushManifest({ origin, tag: '1' }, { mediaType, bytes });
      expect((await client.resolve(`${host}/team/app:1`, amd64)).digest).toBe(digest);
      await pull(host, { insecure: true, credentials: async () => user });
    });

    test('RegistryClient.pushBlob() fails when the bytes are others than the digest says', async () => {
      const host = await startDockerRegistry({ htpasswd: user });
      const client = makeClient([{ host, insecure: true, credentials: async () => user }]);
      const origin = { registry: host, repository: 'team/app' };
      const blob = { digest: digestOf(layer), sizeBytes: 100, origin };
      const pushed = client.pushBlob(blob, () => pieces(layer.subarray(0, 100)));
      await expect(pushed).rejects.toMatchObject({
        detail: { code: 'protocol', fault: 'unexpected-status' },
        message: expect.stringContaining('DIGEST_INVALID') as string,
      });
    });

    test('RegistryClient tells missing credentials from wrong ones', async () => {
      const address = await startDockerRegistry({ htpasswd: user });
      await expect(pull(address, { insecure: true })).rejects.toMatchObject({
        code: 'unauthorized',
        message: expect.stringContaining('none are given') as string,
      });
      const wrong = { ...user, password: 'guess' };
      const pulled = pull(address, { insecure: true, credentials: async () => wrong });
      await expect(pulled).rejects.toMatchObject({
        code: 'unauthorized',
        message: expect.stringContaining('refuses the credentials') as string,
      });
    });
  });

  describeWith('with certificates', [needs.program('openssl')], () => {
    test('RegistryClient trusts the authority that it is given, and no other', async () => {
      const tls = makeCertificates(tempFolder());
      const address = await startDockerRegistry({ storage: await filledStorage(), tls });
      await pull(address, { ca: tls.ca });
      await expect(pull(address, {})).rejects.toMatchObject({
        code: 'unavailable',
        message: expect.stringContaining('registries[].caFile') as string,
      });
    });

    test('RegistryClient gets a token for the scope of a Bearer challenge, once', async () => {
      const issuer = await startTokenServer(makeCertificates(tempFolder()), user);
      const { token } = issuer;
      const address = await startDockerRegistry({ storage: await filledStorage(), token });
      await pull(address, { insecure: true, credentials: async () => user });
      expect(issuer.asked).toEqual(['tests repository:team/app:pull']);
      await expect(pull(address, { insecure: true })).rejects.toMatchObject({
        code: 'unauthorized',
      });
    });
  });
});

async function* pieces(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += 65_536) yield bytes.subarray(at, at + 65_536);
}

function manifestOf(config: Uint8Array, data: Uint8Array): object {
  const describe = (bytes: Uint8Array, mediaType: string): object => ({
    mediaType,
    digest: digestOf(bytes),
    size: bytes.length,
  });
  return {
    schemaVersion: 2,
    mediaType: MANIFEST_MEDIA_TYPES[0],
    config: describe(config, 'application/vnd.oci.image.config.v1+json'),
    layers: [describe(data, 'application/vnd.oci.image.layer.v1.tar')],
  };
}
