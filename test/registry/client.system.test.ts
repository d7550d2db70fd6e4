import { readFileSync } from 'node:fs';
import type { RequestListener } from 'node:http';
import { expect, test } from 'vitest';
import { MANIFEST_MEDIA_TYPES } from '../../src/image/manifest.ts';
import type { CredentialsSource } from '../../src/registry/auth/auth.ts';
import type { RegistryConfig } from '../../src/registry/registries.ts';
import { makeCertificates } from '../kit/certificates.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { startClientCertFront, startProxy } from '../kit/front-servers.ts';
import { sampleBytes } from '../kit/layers.ts';
import { digestOf, putImage, putIndex } from '../kit/registry-content.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { startTokenServer } from '../kit/token-server.ts';
import { startServer } from '../kit/servers.ts';
import { makeClient } from './kit/clients.ts';
import { Scatter } from '../../src/util/scatter.ts';

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
  await client.readBlobInto(blob, 262_144, Scatter.of(target));
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
    const read = client.readBlobInto(beyond, layer.length, Scatter.of(new Uint8Array(1)));
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
      const { digest } = await client.pushManifest({ origin, tag: '1' }, { mediaType, bytes });
      expect((await client.resolve(`${host}/team/app:1`, amd64)).digest).toBe(digest);
      await pull(host, { insecure: true, credentials: async () => user });
    });

    test('RegistryClient.pushBlob() fails when the bytes do not match the digest', async () => {
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

    test('RegistryClient tries others when the registry refuses some', async () => {
      const address = await startDockerRegistry({ storage: await filledStorage(), htpasswd: user });
      const known = [{ ...user, password: 'old' }, { identityToken: 'not for it' }, user];
      const asked: number[] = [];
      await pull(address, {
        insecure: true,
        credentials: async (_repository, refused) => {
          asked.push(refused.length);
          return known[refused.length];
        },
      });
      expect(asked).toEqual([0, 1, 2]);
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

    test('RegistryClient asks once where plain HTTP answers, and says so', async () => {
      const address = await startDockerRegistry({ storage: await filledStorage() });
      await expect(pull(address, {})).rejects.toMatchObject({
        detail: { code: 'unavailable', tls: 'plain-http' },
        message: expect.stringMatching(/answers without TLS; registries\[\]\.insecure asks/),
      });
    });

    test('RegistryClient gets a token for the scope of a Bearer challenge, once', async () => {
      const certificates = makeCertificates(tempFolder());
      const issuer = await startTokenServer(certificates, user);
      const { token } = issuer;
      const address = await startDockerRegistry({ storage: await filledStorage(), token });
      await pull(address, { insecure: true, credentials: async () => user });
      expect(issuer.asked).toEqual(['tests repository:team/app:pull']);
      await expect(pull(address, { insecure: true })).rejects.toMatchObject({
        code: 'unauthorized',
      });
    });

    test('RegistryClient tries other credentials when a server refuses some', async () => {
      const issuer = await startTokenServer(makeCertificates(tempFolder()), user);
      const { token } = issuer;
      const address = await startDockerRegistry({ storage: await filledStorage(), token });
      const known = [{ ...user, password: 'old' }, { registryToken: 'made.up.too' }, user];
      const credentials: CredentialsSource = async (_repository, refused) => known[refused.length];
      await pull(address, { insecure: true, credentials });
      expect(issuer.asked.length).toBe(1);
      // What the registry accepted is kept.
      const client = makeClient([{ host: address, insecure: true, credentials }]);
      const origin = { registry: address, repository: 'team/app' };
      for (let i = 0; i < 3; i++) await client.blobSize(origin, digestOf(layer));
      expect(issuer.asked.length).toBe(2);
    });

    test('RegistryClient trades identity tokens, and sends registry tokens unchanged', async () => {
      const certificates = makeCertificates(tempFolder());
      const identityToken = 'left by a login';
      const issuer = await startTokenServer(certificates, user, { identityToken });
      const { token } = issuer;
      const address = await startDockerRegistry({ storage: await filledStorage(), token });
      await pull(address, { insecure: true, credentials: async () => ({ identityToken }) });
      expect(issuer.asked).toEqual(['POST tests repository:team/app:pull']);
      const registryToken = issuer.issue('repository:team/app:pull');
      await pull(address, { insecure: true, credentials: async () => ({ registryToken }) });
      expect(issuer.asked.length).toBe(1);
      for (const wrong of [{ identityToken: 'made up' }, { registryToken: 'made.up.too' }]) {
        const pulled = pull(address, { insecure: true, credentials: async () => wrong });
        await expect(pulled).rejects.toMatchObject({
          code: 'unauthorized',
          message: expect.stringContaining('refuses the credentials') as string,
        });
      }
    });

    test('RegistryClient shows its certificate only to a registry that wants one', async () => {
      const tls = makeCertificates(tempFolder());
      const address = await startDockerRegistry({ storage: await filledStorage() });
      const front = await startClientCertFront(address, tls);
      const certificate = readFileSync(tls.certificateFile, 'utf8');
      const client = { certificate, key: readFileSync(tls.keyFile, 'utf8') };
      await pull(front.host, { ca: tls.ca, client });
      expect(new Set(front.subjects)).toEqual(new Set(['server']));
      await expect(pull(front.host, { ca: tls.ca })).rejects.toMatchObject({ code: 'unavailable' });

      const seen = front.subjects.length;
      const leads: RequestListener = (request, response) =>
        void response.writeHead(307, { location: `https://${front.host}${request.url}` }).end();
      const host = await startServer(leads);
      await expect(pull(host, { insecure: true, ca: tls.ca, client })).rejects.toMatchObject({
        code: 'unavailable',
      });
      expect(front.subjects.length).toBe(seen);
    });

    test('RegistryClient asks through a proxy; an HTTPS tunnel hides the credentials', async () => {
      const tls = makeCertificates(tempFolder());
      const storage = await filledStorage();
      const host = await startDockerRegistry({ storage, tls, htpasswd: user });
      const proxy = await startProxy();
      const config = { ca: tls.ca, credentials: async () => user };
      await pull(host, { ...config, proxy: proxy.url.replace('//', '//me:p%40ss@') });
      expect(new Set(proxy.asked)).toEqual(new Set([`CONNECT ${host}`]));
      const basic = `Basic ${Buffer.from('me:p@ss').toString('base64')}`;
      expect(proxy.authorizations).toEqual(new Set([`proxy-authorization: ${basic}`]));
      await pull(host, { ...config, proxy: 'none' });
      await expect(pull(host, { ...config, proxy: 'http://127.0.0.1:1' })).rejects.toMatchObject({
        code: 'unavailable',
      });
    });

    test('RegistryClient asks a proxy for whole URLs of a registry without TLS', async () => {
      const host = await startDockerRegistry({ storage: await filledStorage() });
      const proxy = await startProxy();
      await pull(host, { insecure: true, proxy: proxy.url });
      expect(proxy.asked[0]).toBe(`GET http://${host}/v2/team/app/manifests/1`);
      expect(proxy.asked.length).toBeGreaterThan(2);
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
