import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { EmbeddedRegistry } from '../../src/demo/embedded-registry.ts';
import { RegistryOrigin } from '../../src/registry/registry-origin.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { SystemRandom } from '../../src/runtime/node/random.ts';
import { makeCertificates } from '../kit/certificates.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { startClientCertFront, startProxy } from '../kit/front-servers.ts';
import { sampleBytes } from '../kit/layers.ts';
import { putLayout } from '../kit/oci-layout.ts';
import { digestOf, putImage } from '../kit/registry-content.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { startServer } from './kit/rig.ts';

type Entries = ConstructorParameters<typeof RegistryOrigin>[1]['registries'];

const layer = sampleBytes(600_000, 4);
const { signal } = new AbortController();

function makeOrigin(
  entry: Partial<Entries[number]> & { host: string },
  init: Partial<ConstructorParameters<typeof RegistryOrigin>[1]> = {},
): RegistryOrigin {
  const components = {
    clock: new SystemClock(),
    random: new SystemRandom(),
    hash: new NodeHash(),
    logger: silentLogger,
  };
  const registries = [{ insecure: false, mirrors: [], ...entry }];
  const origin = new RegistryOrigin(components, { registries, ...init });
  onTestFinished(() => origin.close());
  return origin;
}

async function startEmbedded() {
  const layoutDir = tempFolder();
  const image = await putLayout(layoutDir, '1', [layer]);
  const registry = new EmbeddedRegistry({ layoutDir, repository: 'team/app' });
  await registry.start();
  onTestFinished(() => registry.stop());
  return { image, host: registry.address, registry };
}

test('RegistryOrigin resolves an image, tells the size of its blob and reads parts of it', async () => {
  const { image, host, registry } = await startEmbedded();
  const origin = makeOrigin({ host, insecure: true });
  const found = await origin.resolve(`${host}/team/app:1`, signal);
  expect(found.manifestDigest).toBe(image.digest);
  expect(digestOf(found.manifest)).toBe(image.digest);
  expect(found.origin).toEqual({ registry: host, repository: 'team/app' });
  const digest = digestOf(layer);
  const { sizeBytes, isPublic } = await origin.stat(digest, found.origin, signal);
  expect([sizeBytes, isPublic]).toEqual([layer.length, true]);
  const target = new Uint8Array(262_144);
  await origin.readInto({ digest, sizeBytes, origin: found.origin }, 262_144, target, signal);
  expect(Buffer.from(target).equals(layer.subarray(262_144, 524_288))).toBe(true);
  expect(registry.stats()).toEqual({ blobBytes: 262_144, blobRequests: 1 });
});

test('RegistryOrigin tells what will not change from what may', async () => {
  const { host } = await startEmbedded();
  const origin = makeOrigin({ host, insecure: true });
  for (const reference of [`${host}/team/app:2`, `${host}/other/app:1`, `${host}/Team:1`]) {
    await expect(origin.resolve(reference, signal)).rejects.toMatchObject({
      name: 'OriginError',
      code: 'not-found',
    });
  }
  const where = { registry: '127.0.0.1:1', repository: 'app' };
  const aborted = AbortSignal.abort(new Error('no longer wanted'));
  await expect(origin.stat(digestOf(layer), where, aborted)).rejects.toMatchObject({
    name: 'OriginError',
    code: 'unavailable',
  });
});

test('RegistryOrigin refuses files that do not hold what they should', () => {
  const file = join(tempFolder(), 'file');
  const host = 'registry.example';
  const missing = () => makeOrigin({ host, credentialsFile: file });
  expect(missing).toThrow(
    /registries\[host=registry.example\].credentialsFile is ".*cannot be read/,
  );
  writeFileSync(file, 'password alone\n');
  expect(missing).toThrow(/must hold one line user:password/);
  expect(() => makeOrigin({ host, caFile: file })).toThrow(/caFile is .*PEM/);
});

test('RegistryOrigin takes proxies from the environment, in lower case before upper case', async () => {
  const proxy = await startProxy();
  const host = 'registry.invalid';
  const variables = {
    http_proxy: proxy.url.replace('http://', ''),
    HTTP_PROXY: 'http://127.0.0.1:1',
  };
  const origin = makeOrigin({ host, insecure: true }, { variables });
  const stat = origin.stat(digestOf(layer), { registry: host, repository: 'app' }, signal);
  await expect(stat).rejects.toMatchObject({ code: 'unavailable' });
  expect(proxy.asked[0]).toContain(`HEAD http://${host}/v2/app/blobs/`);
  const wrong = { HTTPS_PROXY: 'socks5://me:secret@proxy' };
  const make = () => makeOrigin({ host }, { variables: wrong });
  expect(make).toThrow(/^the variable HTTPS_PROXY must be the URL of a proxy, http/);
  expect(make).not.toThrow(/secret/);
});

test('RegistryOrigin.stat() calls public only what a configured registry gives to anybody, and remembers it', async () => {
  const { host } = await startEmbedded();
  const where = { registry: host, repository: 'team/app' };
  const asked: (string | undefined)[] = [];
  const secret = await startServer((request, response) => {
    asked.push(request.headers.authorization);
    const known = request.headers.authorization !== undefined;
    if (!known) response.setHeader('www-authenticate', 'Basic realm="r"');
    response.writeHead(known ? 200 : 401, { 'content-length': known ? 600_000 : 0 }).end();
  });
  const credentialsFile = join(tempFolder(), 'credentials');
  writeFileSync(credentialsFile, 'reader:pass:word\n');
  const open = makeOrigin({ host, insecure: true });
  expect(await open.stat(digestOf(layer), where, signal)).toMatchObject({ isPublic: true });
  const origin = makeOrigin({ host: secret, insecure: true, credentialsFile });
  for (const digest of [digestOf(layer), digestOf(layer), digestOf(layer.subarray(1))]) {
    const found = await origin.stat(digest, { registry: secret, repository: 'app' }, signal);
    expect(found).toEqual({ sizeBytes: 600_000, isPublic: false });
  }
  const basic = `Basic ${Buffer.from('reader:pass:word').toString('base64')}`;
  expect(asked).toEqual([undefined, undefined, basic, basic]);
});

const programs = ['docker-registry', 'htpasswd', 'openssl'].map((name) => needs.program(name));
describeWith('with a real registry', programs, () => {
  test('RegistryOrigin uses the authority and the credentials of the configuration', async () => {
    const storage = tempFolder();
    const open = await startDockerRegistry({ storage });
    const image = await putImage(`http://${open}/v2/team/app`, '1', [layer]);
    const tls = makeCertificates(tempFolder());
    const htpasswd = { username: 'reader', password: 'pass:word' };
    const host = await startDockerRegistry({ storage, tls, htpasswd });
    const credentialsFile = join(tempFolder(), 'credentials');
    writeFileSync(credentialsFile, 'reader:wrong\n');
    const origin = makeOrigin({ host, caFile: tls.caFile, credentialsFile });
    const resolve = () => origin.resolve(`docker://${host}/team/app:1`, signal);
    await expect(resolve()).rejects.toMatchObject({ code: 'refused' });
    // A file that changes is read again.
    writeFileSync(credentialsFile, 'reader:pass:word\n');
    expect((await resolve()).manifestDigest).toBe(image.digest);
  });

  test('RegistryOrigin uses pull secrets, and the helpers of Docker config files, at a real registry', async () => {
    const storage = tempFolder();
    const open = await startDockerRegistry({ storage });
    const image = await putImage(`http://${open}/v2/team/app`, '1', [layer]);
    const htpasswd = { username: 'reader', password: 'pass:word' };
    const host = await startDockerRegistry({ storage, htpasswd });
    const auth = Buffer.from('reader:pass:word').toString('base64');
    const secret = join(tempFolder(), '.dockerconfigjson');
    writeFileSync(secret, JSON.stringify({ auths: { [host]: { auth } } }));
    const programs = tempFolder();
    const answer = JSON.stringify({ Username: 'reader', Secret: 'pass:word' });
    const helper = join(programs, 'docker-credential-test');
    writeFileSync(helper, `#!/bin/sh\necho '${answer}'\n`, { mode: 0o755 });
    const before = process.env['PATH'];
    process.env['PATH'] = `${programs}:${before}`;
    onTestFinished(() => void (process.env['PATH'] = before));
    const config = join(tempFolder(), 'config.json');
    writeFileSync(config, JSON.stringify({ credHelpers: { [host]: 'test' } }));
    for (const credentials of [
      { dockerConfigs: [], pullSecrets: [secret] },
      { dockerConfigs: [config], pullSecrets: [] },
    ]) {
      const origin = makeOrigin({ host, insecure: true }, { credentials });
      const found = await origin.resolve(`docker://${host}/team/app:1`, signal);
      expect(found.manifestDigest).toBe(image.digest);
    }
    const none = makeOrigin({ host, insecure: true });
    await expect(none.resolve(`${host}/team/app:1`, signal)).rejects.toMatchObject({
      code: 'refused',
    });
  });

  test('RegistryOrigin shows the certificate of the configuration, and refuses one without its key', async () => {
    const registry = await startDockerRegistry();
    const image = await putImage(`http://${registry}/v2/team/app`, '1', [layer]);
    const tls = makeCertificates(tempFolder());
    const { caFile, certificateFile: certFile, keyFile: clientKeyFile } = tls;
    const { host } = await startClientCertFront(registry, tls);
    const origin = makeOrigin({ host, caFile, certFile, clientKeyFile });
    expect((await origin.resolve(`${host}/team/app:1`, signal)).manifestDigest).toBe(image.digest);
    const other = makeCertificates(tempFolder()).keyFile;
    expect(() => makeOrigin({ host, certFile, clientKeyFile: other })).toThrow(
      /registries\[host=.*\]\.clientKeyFile is ".*": it must hold the key/,
    );
    expect(() => makeOrigin({ host, certFile: other, clientKeyFile })).toThrow(/certFile is .*PEM/);
  });
});
