import { writeFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { INDEX_MEDIA_TYPES, MANIFEST_MEDIA_TYPES } from '../../src/image/manifest.ts';
import type { Digest } from '../../src/image/digest.ts';
import type { BlobOrigin } from '../../src/image/block.ts';
import type { FetchedManifest, ManifestShelf } from '../../src/registry/manifest-reader.ts';
import { FakeRegistry, type Behaviour } from '../kit/fake-registry.ts';
import { ManualClock } from '../kit/manual-clock.ts';
import { digestOf } from '../kit/registry-content.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { makeAccess } from './kit/origins.ts';

const [OCI] = MANIFEST_MEDIA_TYPES;
const [INDEX] = INDEX_MEDIA_TYPES;
const { signal } = new AbortController();

class Shelf implements ManifestShelf {
  readonly kept = new Map<string, Omit<FetchedManifest, 'origin'>>();

  manifest({ registry, repository }: BlobOrigin, digest: Digest) {
    return this.kept.get(`${registry}/${repository}@${digest}`);
  }

  putManifest({ registry, repository }: BlobOrigin, manifest: Omit<FetchedManifest, 'origin'>) {
    this.kept.set(`${registry}/${repository}@${manifest.digest}`, manifest);
  }
}

function imageOf(note: string): Buffer {
  const config = { mediaType: 'a/b', digest: digestOf(Buffer.from('{}')), size: 2 };
  return Buffer.from(JSON.stringify({ schemaVersion: 2, config, layers: null, note }));
}

/** A registry with an image, an access to it that keeps manifests, and what was asked. */
async function start(entry: { mirrors?: readonly string[] } = {}) {
  const registry = new FakeRegistry();
  await registry.start();
  onTestFinished(() => registry.stop());
  const clock = new ManualClock({ sleeps: 'pass' });
  const host = registry.address;
  const { origin } = makeAccess({ host, insecure: true, mirrors: [], ...entry }, {}, clock);
  const shelf = new Shelf();
  origin.keepManifests(shelf);
  const where = { registry: host, repository: 'team/app' };
  const digest = registry.addManifest('1', imageOf('one'));
  return {
    ...{ registry, clock, origin, shelf, where, digest },
    read: (reference = '1') => origin.manifest(where, reference, { signal }),
    /** Methods of the requests for manifests since the last call. */
    asked: (): string => {
      const made = registry.askedFor('/manifests/').map(({ method }) => method);
      registry.asked.length = 0;
      return made.join(' ');
    },
  };
}

/** Answers HEAD in place of the registry. */
function onHead(answer: (request: IncomingMessage, response: ServerResponse) => void): Behaviour {
  return (request, response) => {
    if (request.method !== 'HEAD') return false;
    answer(request, response);
    return true;
  };
}

describe('RegistryOrigin.manifest() of a tag', () => {
  it('looks by HEAD, and reads what it does not keep', async () => {
    const { registry, read, asked, digest } = await start();
    expect((await read()).digest).toBe(digest);
    expect(asked()).toBe('HEAD GET');
    for (let i = 0; i < 5; i++) await read();
    expect(asked()).toBe('HEAD HEAD HEAD HEAD HEAD');
    registry.addManifest('2', imageOf('one'));
    await read('2');
    expect(asked(), 'another tag of the same').toBe('HEAD');
    const moved = registry.addManifest('1', imageOf('two'));
    expect((await read()).digest).toBe(moved);
    expect(asked()).toBe('HEAD GET');
    await read(digest);
    expect(asked(), 'what is kept is asked for of nobody').toBe('');
  });

  it.each<[string, Behaviour]>([
    ['405', onHead((_, response) => response.writeHead(405).end())],
    ['404', onHead((_, response) => response.writeHead(404).end())],
    ['401', onHead((_, response) => response.writeHead(401).end())],
    ['501', onHead((_, response) => response.writeHead(501).end())],
    ['200 without a digest', onHead((_, response) => response.writeHead(200).end())],
    [
      '200 with a digest of another kind',
      onHead((_, response) => {
        response.writeHead(200, { 'docker-content-digest': `sha512:${'1'.repeat(128)}` }).end();
      }),
    ],
  ])('reads it where HEAD gives %s, and remembers that', async (what, behaviour) => {
    const { registry, clock, read, asked, digest } = await start();
    registry.behaviours.set('', behaviour);
    expect((await read()).digest).toBe(digest);
    expect(asked()).toBe('HEAD GET');
    await read();
    expect(asked()).toBe('GET');
    // An error of the server itself may pass.
    clock.advance(what === '501' ? 60_000 : 3_600_000);
    registry.behaviours.clear();
    await read();
    expect(asked()).toBe('HEAD');
  });

  it('asks no more of a registry that limits requests', async () => {
    const { registry, read, asked } = await start();
    const limit = { 'retry-after': '3600' };
    registry.behaviours.set(
      '',
      onHead((_, response) => response.writeHead(429, limit).end()),
    );
    await expect(read()).rejects.toMatchObject({ code: 'rate-limited' });
    expect(asked()).toBe('HEAD');
  });

  it('takes the word of a mirror that names a digest, and asks on where it does not', async () => {
    const mirror = new FakeRegistry();
    await mirror.start();
    onTestFinished(() => mirror.stop());
    mirror.addManifest('1', imageOf('one'));
    const { read, asked, digest } = await start({ mirrors: [`http://${mirror.address}`] });
    expect((await read()).digest).toBe(digest);
    await read();
    expect(mirror.asked.map(({ method }) => method)).toEqual(['HEAD', 'GET', 'HEAD']);
    expect(asked()).toBe('');
    mirror.behaviours.set(
      '',
      onHead((_, response) => response.writeHead(405).end()),
    );
    mirror.asked.length = 0;
    await read();
    expect(asked(), 'the HEAD alone: the manifest is kept').toBe('HEAD');
    mirror.addManifest('2', imageOf('two'));
    await read('2');
    expect(mirror.asked.map(({ method }) => method)).toEqual(['HEAD', 'HEAD', 'GET']);
  });
});

describe('RegistryOrigin.stat() of a manifest', () => {
  it('asks by HEAD, and by GET where that says nothing', async () => {
    const { registry, origin, where, digest, asked } = await start();
    const sizeBytes = imageOf('one').length;
    expect(await origin.stat(digest, where, signal)).toEqual({ sizeBytes, isPublic: true });
    expect(asked()).toBe('HEAD');
    registry.behaviours.set(
      '',
      onHead((_, response) => response.writeHead(403).end()),
    );
    expect(await origin.stat(digest, where, signal)).toEqual({ sizeBytes, isPublic: true });
    expect(asked()).toBe('HEAD GET');
  });
});

describe('RegistryOrigin.manifest() of what is none', () => {
  const page = Buffer.from('<html>blocked</html>');
  const image = imageOf('one');
  it.each<[string, Buffer, string]>([
    ['a page', page, 'text/html'],
    ['a page with the type of a manifest', page, OCI],
    ['nothing', Buffer.alloc(0), OCI],
    ['the first half', image.subarray(0, 40), OCI],
    ['an error', Buffer.from('{"errors":[]}'), 'application/json'],
    ['a manifest as a page', image, 'text/html'],
    ['a manifest as a list', image, INDEX],
  ])('keeps and gives nothing: %s', async (_, bytes, mediaType) => {
    const { registry, read, shelf, digest, clock } = await start();
    const answer: Behaviour = (request, response) => {
      if (!/manifests\/1/.test(request.url ?? '')) return false;
      response.writeHead(200, { 'content-type': mediaType, 'content-length': bytes.length });
      response.end(request.method === 'HEAD' ? undefined : bytes);
      return true;
    };
    registry.behaviours.set('', answer);
    await expect(read()).rejects.toMatchObject({
      detail: { code: 'protocol', fault: 'no-manifest' },
      message: expect.stringContaining('is no manifest: ') as string,
    });
    expect([...shelf.kept]).toEqual([]);
    registry.behaviours.clear();
    clock.advance(1);
    expect((await read()).digest).toBe(digest);
  });

  it('asks once more, since the next answer may be whole', async () => {
    const { registry, read, digest, asked } = await start();
    let isFirst = true;
    registry.behaviours.set('', (request, response) => {
      if (request.method !== 'GET' || !isFirst) return false;
      isFirst = false;
      response.end('{"schemaVersion":2,');
      return true;
    });
    expect((await read()).digest).toBe(digest);
    expect(asked()).toBe('HEAD GET GET');
  });

  it('asks a mirror no more for a page that it gives, and the registry instead', async () => {
    const mirror = new FakeRegistry();
    await mirror.start();
    onTestFinished(() => mirror.stop());
    mirror.behaviours.set('', (_, response) => {
      response.writeHead(200, { 'content-type': 'text/html' }).end(page);
      return true;
    });
    const { read, digest } = await start({ mirrors: [`http://${mirror.address}`] });
    expect((await read()).digest).toBe(digest);
  });

  it('shows its credentials to a registry that gives strangers a page', async () => {
    const registry = new FakeRegistry();
    await registry.start();
    onTestFinished(() => registry.stop());
    const digest = registry.addManifest('1', image);
    registry.behaviours.set('', ({ headers, url }, response) => {
      if (headers.authorization !== undefined) return false;
      const isApi = url === '/v2/';
      if (isApi) response.writeHead(401, { 'www-authenticate': 'Basic realm="r"' }).end();
      else response.writeHead(200, { 'content-type': 'text/html' }).end(page);
      return true;
    });
    const credentialsFile = join(tempFolder(), 'credentials');
    writeFileSync(credentialsFile, 'u:p', { mode: 0o600 });
    const host = registry.address;
    const { origin } = makeAccess({ host, insecure: true, credentialsFile });
    const where = { registry: host, repository: 'app' };
    expect((await origin.manifest(where, '1', { signal })).digest).toBe(digest);
  });

  it.each<[string, object]>([
    ['application/vnd.docker.distribution.manifest.v1+prettyjws', { schemaVersion: 1 }],
    ['application/vnd.example.thing.v1+json', { schemaVersion: 2, blobs: [] }],
    [
      OCI,
      {
        schemaVersion: 2,
        artifactType: 'application/vnd.example.sbom',
        config: {
          mediaType: 'application/vnd.oci.empty.v1+json',
          digest: digestOf(Buffer.from('{}')),
          size: 2,
          data: 'e30=',
        },
        layers: [],
      },
    ],
  ])('gives as it is what may be of use to others: %s', async (mediaType, json) => {
    const { registry, read } = await start();
    const bytes = Buffer.from(JSON.stringify(json));
    const digest = registry.addManifest('1', bytes, mediaType);
    const found = await read();
    expect(found).toMatchObject({ digest, mediaType });
    expect(Buffer.from(found.bytes).equals(bytes)).toBe(true);
  });
});

describe('RegistryOrigin.resolve()', () => {
  it('keeps manifests, and reads none that is kept', async () => {
    const { registry, origin, where, asked, digest } = await start();
    const platform = { os: 'linux', architecture: process.arch === 'x64' ? 'x86_64' : 'aarch64' };
    const manifests = [{ mediaType: OCI, digest, size: imageOf('one').length, platform }];
    registry.addManifest('all', Buffer.from(JSON.stringify({ manifests })), INDEX);
    const name = `${where.registry}/${where.repository}:all`;
    expect((await origin.resolve(name, signal)).manifestDigest).toBe(digest);
    expect(asked()).toBe('HEAD GET GET');
    await origin.resolve(name, signal);
    expect(asked()).toBe('HEAD');
    await origin.manifest(where, 'all', { signal });
    await origin.manifest(where, digest, { signal });
    expect(asked()).toBe('HEAD');
  });

  it('says which platforms there are where none fits', async () => {
    const { registry, origin, where, digest } = await start();
    const entry = { digest, size: 1, platform: { os: 'linux', architecture: 's390x' } };
    registry.addManifest('all', Buffer.from(JSON.stringify({ manifests: [entry] })), INDEX);
    await expect(
      origin.resolve(`${where.registry}/${where.repository}:all`, signal),
    ).rejects.toMatchObject({
      code: 'not-found',
      message: expect.stringMatching(
        /has no image for linux\/\w+; it has: linux\/s390x$/,
      ) as string,
    });
  });

  it('looks at the configs of several entries that name no platform', async () => {
    const { registry, origin, where } = await start();
    const images = ['s390x', process.arch === 'x64' ? 'amd64' : process.arch].map(
      (architecture) => {
        const config = registry.addBlob(Buffer.from(JSON.stringify({ os: 'linux', architecture })));
        const described = { mediaType: 'a/b', digest: config.digest, size: config.bytes.length };
        const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, config: described }));
        return { digest: registry.addManifest(architecture, bytes), size: bytes.length };
      },
    );
    registry.addManifest('all', Buffer.from(JSON.stringify({ manifests: images })), INDEX);
    const found = await origin.resolve(`${where.registry}/${where.repository}:all`, signal);
    expect(found.manifestDigest).toBe(images[1]?.digest);
  });
});
