import { writeFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { apiRoots, isMirrorUrl, nameWithin, pingPath } from '../../src/registry/mirror-url.ts';
import { parseDigest } from '../../src/image/digest.ts';
import { defined } from '../../src/util/assert.ts';
import { Scatter } from '../../src/util/scatter.ts';
import { FakeRegistry } from '../kit/fake-registry.ts';
import { startServer } from '../kit/servers.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { ManualClock } from '../kit/manual-clock.ts';
import { clientOf, makeRegistries } from './kit/clients.ts';
import { makeAccess } from './kit/origins.ts';

const { signal } = new AbortController();
const MANIFEST = Buffer.from('{"schemaVersion":2,"layers":[]}');

describe('apiRoots()', () => {
  it.each<[string, ...string[]]>([
    ['https://cache.example', '/v2'],
    ['https://cache.example/', '/v2'],
    ['https://cache.example/v2', '/v2'],
    ['https://zot.example/v2/docker.io', '/v2/docker.io'],
    ['https://harbor.example:8443/v2/proxy/', '/v2/proxy'],
    ['https://nexus.example/repository/hub/v2', '/repository/hub/v2'],
    ['http://art.example/artifactory/api/docker/hub/v2', '/artifactory/api/docker/hub/v2'],
    ['https://harbor.example/proxy', '/proxy/v2', '/v2/proxy'],
    ['https://art.example/a/b/', '/a/b/v2', '/v2/a/b'],
    ['https://cache.example/v2x', '/v2x/v2', '/v2/v2x'],
  ])('of %s', (url, ...roots) => {
    expect(isMirrorUrl(url)).toBe(true);
    expect(apiRoots(url)).toEqual(roots);
  });

  it.each([
    'cache.example/v2',
    'ftp://cache.example/v2',
    'https://u:p@cache.example/v2',
    'https://cache.example/v2?x=1',
    'https://cache.example/v2#x',
    'https://cache.example/../v2',
    'https://cache.example/a/./b',
    'https://cache.example//v2',
    'https://cache.example/%2e%2e/v2',
    'https://cache.example/a b',
    'https:///v2',
  ])('%s is no mirror', (url) => {
    expect(isMirrorUrl(url)).toBe(false);
  });

  it('says what names begin with, and where clients are challenged', () => {
    expect(['/v2', '/v2/a/b', '/x/v2', '/x/v2/y'].map(nameWithin)).toEqual(['', 'a/b', '', 'y']);
    const paths = ['/v2', '/v2/a/b', '/x/v2', '/x/v2/y'].map(pingPath);
    expect(paths).toEqual(['/v2/', '/v2/', '/x/v2/', '/x/v2/']);
  });
});

/** A registry that nobody reaches, behind a cache that has its API below `root`. */
async function start(
  root: string,
  init: {
    readonly entry: (host: string) => string;
    readonly before?: (request: IncomingMessage, response: ServerResponse) => boolean;
    readonly user?: string;
  },
) {
  const cache = new FakeRegistry();
  const digest = cache.addManifest('1', MANIFEST);
  const blob = cache.add(1000);
  const asked: string[] = [];
  const host = await startServer((request, response) => {
    const { url = '' } = request;
    asked.push(url);
    if (init.before?.(request, response) === true) return;
    if (!url.startsWith(`${root}/library/app/`)) return response.writeHead(404).end();
    request.url = `/v2${url.slice(root.length)}`;
    return cache.answer(request, response);
  });
  const file = join(tempFolder(), 'credentials');
  writeFileSync(file, init.user ?? '', { mode: 0o600 });
  const gone = '127.0.0.1:1';
  const mirrors = [init.entry(host)];
  const access = makeAccess(
    { host: gone, insecure: true, mirrors },
    {
      registries: [
        { host: gone, insecure: true, mirrors },
        ...(init.user === undefined
          ? []
          : [{ host, insecure: true, mirrors: [], credentialsFile: file }]),
      ],
    },
    new ManualClock({ sleeps: 'pass' }),
  );
  onTestFinished(() => cache.stop());
  const origin = { registry: gone, repository: 'library/app' };
  const readAll = async (): Promise<void> => {
    expect((await access.origin.manifest(origin, '1', { signal })).digest).toBe(digest);
    const target = new Uint8Array(blob.bytes.length);
    const located = { digest: blob.digest, sizeBytes: target.length, origin };
    await access.origin.readInto(located, 0, Scatter.of(target), signal);
    expect(Buffer.from(target).equals(blob.bytes)).toBe(true);
  };
  return { asked, readAll, host };
}

describe('a mirror below a path', () => {
  it('is asked at the rate of the configuration', async () => {
    const host = await startServer((_request, response) => {
      response.writeHead(206, { 'content-range': 'bytes 0-0/1000' }).end('x');
    });
    for (const path of ['', '/v2/hub', '/repository/hub/v2']) {
      const clock = new ManualClock({ sleeps: 'pass' });
      const gone = '127.0.0.1:1';
      const mirrors = [`http://${host}${path}`];
      const registries = [{ host: gone, insecure: true, mirrors }];
      const client = clientOf(makeRegistries({ registries, requestsPerSecond: 1 }, clock), clock);
      const origin = { registry: gone, repository: 'app' };
      for (const digit of ['a', 'b', 'c']) {
        const digest = defined(parseDigest(`sha256:${digit.repeat(64)}`), 'a digest');
        expect(await client.blobSize(origin, digest)).toBe(1000);
      }
      expect(clock.nowMs()).toBeGreaterThanOrEqual(2_000);
    }
  });

  it.each<[string, string, string]>([
    ['a folder of zot', '/v2/docker.io', 'v2/docker.io'],
    ['a project of Harbor', '/v2/hub-proxy', 'v2/hub-proxy/'],
    ['a project of Harbor, without /v2', '/v2/hub-proxy', 'hub-proxy'],
    ['a repository of Nexus', '/repository/hub/v2', 'repository/hub/v2'],
    ['a repository of Nexus, without /v2', '/repository/hub/v2', 'repository/hub'],
    ['a repository of Artifactory', '/artifactory/api/docker/hub/v2', 'artifactory/api/docker/hub'],
    ['a cache at the root', '/v2', ''],
  ])('gives manifests and blobs: %s', async (_, root, path) => {
    const { asked, readAll } = await start(root, { entry: (host) => `http://${host}/${path}` });
    await readAll();
    const before = asked.length;
    await readAll();
    // The place is known then.
    expect(asked.slice(before).every((url) => url.startsWith(`${root}/`))).toBe(true);
  });

  it('is found where other paths lead to a page', async () => {
    const { readAll } = await start('/v2/hub', {
      entry: (host) => `http://${host}/hub`,
      before: ({ url = '' }, response) => {
        if (url.startsWith('/v2/')) return false;
        response.writeHead(200, { 'content-type': 'text/html' }).end('<html>portal</html>');
        return true;
      },
    });
    await readAll();
  });

  it('gets the credentials of its own host, for the names that it has', async () => {
    const user = 'robot:secret';
    const scopes: (string | null)[] = [];
    const { readAll, host } = await start('/v2/hub', {
      user,
      entry: (at) => `http://${at}/v2/hub`,
      before: ({ url = '', headers }, response) => {
        const { pathname, searchParams } = new URL(url, 'http://x');
        if (pathname === '/token') {
          scopes.push(searchParams.get('scope'));
          const isUser = headers.authorization === `Basic ${Buffer.from(user).toString('base64')}`;
          response.writeHead(isUser ? 200 : 401).end('{"token":"T"}');
          return true;
        }
        if (headers.authorization === 'Bearer T') return false;
        const challenge = `Bearer realm="http://${headers.host}/token",service="s"`;
        response.writeHead(401, { 'www-authenticate': challenge }).end();
        return true;
      },
    });
    expect(host).toMatch(/^127/);
    await readAll();
    expect(new Set(scopes)).toEqual(new Set(['repository:hub/library/app:pull']));
  });
});
