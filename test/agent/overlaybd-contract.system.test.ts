import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AgentCluster, type ClusterHost } from '../../src/demo/agent-cluster.ts';
import { ask, type Answer } from './kit/local-client.ts';
import {
  answerSoundly,
  FakeRegistry,
  type Behaviour,
  type FakeBlob,
} from '../kit/fake-registry.ts';

/** Two blocks and a bit. */
const BLOB_BYTES = 600_000;

const ROLES = ['root', 'child'] as const;
type Role = (typeof ROLES)[number];

let dir: string;
let cluster: AgentCluster;
/**
 * The registry, the storage that it redirects to, a registry that will be stopped, and one that the
 * configuration does not name.
 */
const registry = new FakeRegistry();
const storage = new FakeRegistry();
const mortal = new FakeRegistry();
const stranger = new FakeRegistry();
let repositories = 0;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'xylem-test-'));
  const upstreams = [registry, storage, mortal, stranger];
  await Promise.all(upstreams.map((upstream) => upstream.start()));
  const listed = [registry, mortal].map(({ address }) => ({
    host: address,
    insecure: true,
    storage: [`http://${storage.address}/`],
  }));
  cluster = new AgentCluster({
    dir,
    roots: 1,
    children: 1,
    registry: registry.address,
    devices: false,
    config: () => ({ registries: listed }),
  });
  await cluster.start();
});

afterAll(async () => {
  await cluster?.stop();
  await Promise.all([registry, storage, mortal, stranger].map((upstream) => upstream.stop()));
  await rm(dir, { recursive: true, force: true });
});

function hostOf(role: Role): ClusterHost {
  const host = role === 'root' ? cluster.roots[0] : cluster.children[0];
  if (host === undefined) throw new Error(`no ${role}`);
  return host;
}

function get(
  role: Role,
  url: string,
  headers: Record<string, string> = {},
  method = 'GET',
): Promise<Answer> {
  return ask(hostOf(role).local, `/dadip2p/${url}`, { headers, method });
}

/** Asks for part of a blob in a repository of its own, at which the registry behaves so. */
function askBlob(
  role: Role,
  blob: FakeBlob,
  init: {
    behave?: Behaviour;
    range?: string;
    headers?: Record<string, string>;
    at?: FakeRegistry;
  } = {},
): Promise<Answer> {
  const { behave, range = 'bytes=262000-262400', headers = {}, at = registry } = init;
  const repository = `app-${++repositories}`;
  if (behave !== undefined) at.behaviours.set(`/v2/${repository}/`, behave);
  return get(role, at.url(repository, blob), { range, ...headers });
}

/** Exactly the bytes asked for, in the one form that overlaybd takes. */
function expectPart(answer: Answer, blob: FakeBlob, offset: number, end: number): void {
  expect(answer.status, answer.body.toString('latin1', 0, 300)).toBe(206);
  expect(answer.headers['content-range']).toBe(`bytes ${offset}-${end}/${blob.bytes.length}`);
  expect(answer.headers['content-length']).toBe(String(end - offset + 1));
  expect(answer.body.equals(blob.bytes.subarray(offset, end + 1))).toBe(true);
}

/** An error that says so before any bytes: overlaybd and the container see no broken part. */
function expectError(answer: Answer, statuses: readonly number[]): void {
  expect(statuses).toContain(answer.status);
  expect(answer.headers['content-range']).toBeUndefined();
  expect(answer.headers['content-type']).toContain('json');
}

/** Counts its calls for GET. */
function first(count: number, behave: Behaviour): Behaviour {
  let calls = 0;
  return (request, response, blob) =>
    request.method === 'GET' && calls++ < count ? behave(request, response, blob) : false;
}

describe.each(ROLES)('the overlaybd prefix of a %s: requests', (role) => {
  it('of the registry shape, with any query, are answered with exactly those bytes', async () => {
    const blob = registry.add(BLOB_BYTES);
    for (const query of ['', '?', '?ns=x&sig=%2F', `?${'q'.repeat(2000)}`]) {
      const url = `${registry.url('shape/of-registry', blob)}${query}`;
      expectPart(await get(role, url, { range: 'bytes=0-104' }), blob, 0, 104);
    }
    // One byte for the size of the blob, and the block.
    const ranges = registry.askedFor(blob.hex).filter(({ method }) => method === 'GET');
    expect(ranges.filter(({ range }) => range !== 'bytes=0-0')).toMatchObject([
      { range: 'bytes=0-262143' },
    ]);
  });

  it('of the redirect shape, with signatures that differ per host, are one blob', async () => {
    const blob = storage.add(BLOB_BYTES);
    const urls = ['X-Sig=a%2Fb%3D&e=%20', 'X-Sig=c%2Fd', ''].map((s) => storage.signedUrl(blob, s));
    for (const url of urls) {
      expectPart(await get(role, url, { range: 'bytes=1000-1999' }), blob, 1000, 1999);
    }
    const blocks = storage.askedFor(blob.hex).filter(({ range }) => range === 'bytes=0-262143');
    expect(blocks).toHaveLength(1);
    expect(blocks[0]?.url).toContain('?X-Sig=');
  });

  it('of the redirect shape use the tree when any host saw the registry URL before', async () => {
    const blob = registry.add(BLOB_BYTES);
    storage.share(blob);
    const other = role === 'root' ? 'child' : 'root';
    expectPart(await askBlob(other, blob), blob, 262_000, 262_400);
    const signed = storage.signedUrl(blob, `sig=${role}`);
    expectPart(await get(role, signed, { range: 'bytes=0-999' }), blob, 0, 999);
    const read = storage.askedFor(blob.hex).filter(({ range }) => range === 'bytes=0-262143');
    expect(read).toEqual([]);
  });

  it('keep their percent-encoding', async () => {
    const blob = storage.add(BLOB_BYTES);
    const query = 'a=%2f%2F%20+~%C3%A4&b=%7E;c=%25';
    const answer = await get(role, storage.signedUrl(blob, query), { range: 'bytes=0-9' });
    expectPart(answer, blob, 0, 9);
    for (const { url } of storage.askedFor(blob.hex))
      expect(url.endsWith(`data?${query}`)).toBe(true);
  });

  it('are understood with one slash of the URL missing', async () => {
    const blob = registry.add(BLOB_BYTES);
    const url = registry.url('slash', blob).replace('http://', 'http:/');
    expectPart(await get(role, url, { range: 'bytes=5-9' }), blob, 5, 9);
  });

  it('of 256 KiB and of 105 bytes, over block borders and at the end, are served', async () => {
    const blob = registry.add(BLOB_BYTES);
    for (const [offset, end] of [
      [0, 262_143],
      [262_144, 524_287],
      [524_288, 599_999],
      [262_100, 262_204],
      [599_895, 599_999],
    ] as const) {
      const answer = await get(role, registry.url('sizes', blob), {
        range: `bytes=${offset}-${end}`,
      });
      expectPart(answer, blob, offset, end);
    }
  });

  it('with HEAD get the size, without Range the whole, beyond the end 416', async () => {
    const blob = registry.add(BLOB_BYTES);
    const url = registry.url('forms', blob);
    const head = await get(role, url, {}, 'HEAD');
    expect([head.status, head.headers['content-length']]).toEqual([200, String(BLOB_BYTES)]);
    const whole = await get(role, url);
    expect([whole.status, whole.body.equals(blob.bytes)]).toEqual([200, true]);
    const beyond = await get(role, url, { range: `bytes=${BLOB_BYTES}-` });
    expect([beyond.status, beyond.headers['content-range']]).toEqual([
      416,
      `bytes */${BLOB_BYTES}`,
    ]);
  });

  it('with If-None-Match and If-Range are understood', async () => {
    const blob = registry.add(BLOB_BYTES);
    const url = registry.url('conditions', blob);
    const etag = String((await get(role, url, {}, 'HEAD')).headers.etag);
    expect((await get(role, url, { 'if-none-match': etag })).status).toBe(304);
    const part = await get(role, url, { range: 'bytes=0-9', 'if-range': etag });
    expectPart(part, blob, 0, 9);
  });

  it('without a digest are passed through with Range, Authorization and status', async () => {
    const body = Buffer.from('a body that nobody vouches for');
    const path = `/some/file%20${role}`;
    registry.behaviours.set(path, (request, response) => {
      answerSoundly(request, response, body);
      return true;
    });
    const url = `http://${registry.address}${path}?x=%2F`;
    const headers = { range: 'bytes=2-5', authorization: 'Bearer own' };
    const answer = await get(role, url, headers);
    expect([answer.status, answer.body.toString()]).toEqual([206, 'body']);
    expect(answer.headers['content-range']).toBe(`bytes 2-5/${body.length}`);
    const asked = { method: 'GET', url: `${path}?x=%2F`, ...headers };
    expect(registry.askedFor(path)).toEqual([expect.objectContaining(asked)]);
    expect((await get(role, url, {}, 'HEAD')).headers['content-length']).toBe(String(body.length));
    expect((await get(role, `http://${registry.address}/not/there`)).status).toBe(404);
  });

  it('without a digest never see a broken part, nor credentials on another host', async () => {
    const path = `/odd/${role}`;
    registry.behaviours.set(path, (request, response) => {
      if (request.url?.endsWith('/away')) {
        response.writeHead(307, { location: `http://${storage.address}${path}/home` }).end();
      } else {
        response.writeHead(206, { 'content-length': 4 }).end('part');
      }
      return true;
    });
    storage.behaviours.set(path, (_, response) => {
      response.end('home');
      return true;
    });
    expectError(
      await get(role, `http://${registry.address}${path}`, { range: 'bytes=0-3' }),
      [502],
    );
    const headers = { authorization: 'Bearer own' };
    const away = await get(role, `http://${registry.address}${path}/away`, headers);
    expect(away.body.toString()).toBe('home');
    expect(storage.askedFor(path).map(({ authorization }) => authorization)).toEqual([undefined]);
    expectError(await get(role, 'http://127.0.0.1:1/nobody/there'), [502]);
  });
});

describe.each(ROLES)('the overlaybd prefix of a %s: what the registry may answer', (role) => {
  it('206 + Content-Range + exactly those bytes: 206', async () => {
    const blob = registry.add(BLOB_BYTES);
    expectPart(await askBlob(role, blob), blob, 262_000, 262_400);
  });

  it('206 without Content-Range now and then: asked again', async () => {
    const blob = registry.add(BLOB_BYTES);
    const broken: Behaviour = (request, response) => {
      if (request.method !== 'GET') return false;
      response.writeHead(206, { 'content-length': 10 }).end(Buffer.alloc(10));
      return true;
    };
    const once = await askBlob(role, blob, { behave: first(1, broken) });
    expectPart(once, blob, 262_000, 262_400);
  });

  it('206 with a total of *: 206 with the true one', async () => {
    const blob = registry.add(BLOB_BYTES);
    const behave: Behaviour = (request, response) => {
      const range = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? '');
      if (request.method !== 'GET' || range === null) return false;
      const [offset, end] = [Number(range[1]), Number(range[2])];
      response.writeHead(206, { 'content-range': `bytes ${offset}-${end}/*` });
      response.end(blob.bytes.subarray(offset, end + 1));
      return true;
    };
    expectPart(await askBlob(role, blob, { behave }), blob, 262_000, 262_400);
  });

  it('200 with the whole body: 206 all the same', async () => {
    const blob = registry.add(BLOB_BYTES);
    const behave: Behaviour = (request, response) => {
      if (request.method !== 'GET') return false;
      response.writeHead(200, { 'content-length': BLOB_BYTES }).end(blob.bytes);
      return true;
    };
    expectPart(await askBlob(role, blob, { behave }), blob, 262_000, 262_400);
  });

  it('a short body: asked again', async () => {
    const blob = registry.add(BLOB_BYTES);
    const behave = first(2, (request, response) => {
      const range = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? '');
      response.writeHead(206, {
        'content-range': `bytes ${range?.[1]}-${range?.[2]}/${BLOB_BYTES}`,
        connection: 'close',
      });
      response.end(Buffer.alloc(1000));
      return true;
    });
    expectPart(await askBlob(role, blob, { behave }), blob, 262_000, 262_400);
  });

  it('a connection dropped mid-body: asked again', async () => {
    const blob = registry.add(BLOB_BYTES);
    const behave = first(2, async (request, response) => {
      const range = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? '');
      const [offset, end] = [Number(range?.[1]), Number(range?.[2])];
      response.writeHead(206, {
        'content-range': `bytes ${offset}-${end}/${BLOB_BYTES}`,
        'content-length': end - offset + 1,
      });
      await new Promise((resolve) =>
        response.write(blob.bytes.subarray(offset, offset + 1000), resolve),
      );
      response.destroy();
      return true;
    });
    expectPart(await askBlob(role, blob, { behave }), blob, 262_000, 262_400);
  });

  it('one corrupt block: found where the digest tells', async () => {
    const corrupt: Behaviour = (request, response, blob) => {
      if (request.headers.range?.startsWith('bytes=0-') !== true) return false;
      const wrong = Buffer.from(blob?.bytes ?? []);
      wrong[100]! ^= 1;
      answerSoundly(request, response, wrong);
      return true;
    };
    const small = registry.add(200_000);
    const range = 'bytes=0-199';
    expectPart(await askBlob(role, small, { behave: first(1, corrupt), range }), small, 0, 199);
    const large = registry.add(BLOB_BYTES);
    const whole = askBlob(role, large, { behave: first(3, corrupt), range: 'bytes=0-' });
    expectError(await whole, [502]);
  });

  it('500 or 429 now and then: 206', async () => {
    for (const status of [500, 429, 503]) {
      const blob = registry.add(BLOB_BYTES);
      let calls = 0;
      const behave: Behaviour = (_, response) => {
        if (calls++ % 2 === 1) return false;
        response.writeHead(status).end('not now');
        return true;
      };
      expectPart(await askBlob(role, blob, { behave }), blob, 262_000, 262_400);
    }
  });

  it.each([401, 403])(
    '%i: passed on with the challenge, and then the new token counts',
    async (status) => {
      const blob = registry.add(BLOB_BYTES);
      const challenge = `Bearer realm="http://${registry.address}/token",service="s"`;
      const behave: Behaviour = (request, response) => {
        if (request.headers.authorization === 'Bearer new') return false;
        response.writeHead(status, { 'www-authenticate': challenge }).end();
        return true;
      };
      const repository = `refusing-${role}-${status}`;
      registry.behaviours.set(`/v2/${repository}/`, behave);
      const url = registry.url(repository, blob);
      const range = 'bytes=262000-262400';
      for (const authorization of [undefined, 'Bearer old']) {
        const refused = await get(role, url, { range, ...(authorization && { authorization }) });
        expectError(refused, [status]);
        expect(refused.headers['www-authenticate']).toBe(challenge);
      }
      const taken = await get(role, url, { range, authorization: 'Bearer new' });
      expectPart(taken, blob, 262_000, 262_400);
      expectError(await get(role, url, { range }), [status]);
    },
  );

  it('a signed URL that has expired: 403, and the next one counts', async () => {
    const blob = storage.add(BLOB_BYTES);
    storage.behaviours.set(
      `/docker/blobs/sha256/${blob.hex.slice(0, 2)}/${blob.hex}`,
      (request, response) => {
        if (request.url?.endsWith('fresh')) return false;
        response.writeHead(403).end();
        return true;
      },
    );
    const range = 'bytes=0-104';
    expectError(await get(role, storage.signedUrl(blob, 'old'), { range }), [403]);
    expectPart(await get(role, storage.signedUrl(blob, 'fresh'), { range }), blob, 0, 104);
  });

  it('a token that ends between two blocks: 401 at once, and the next one counts', async () => {
    const blob = registry.add(BLOB_BYTES);
    let good = 'Bearer first';
    const repository = `ending-${role}`;
    registry.behaviours.set(`/v2/${repository}/`, (request, response) => {
      if (request.headers.authorization === good) return false;
      response.writeHead(401, { 'www-authenticate': 'Bearer realm="r"' }).end();
      return true;
    });
    const url = registry.url(repository, blob);
    const read = (range: string, authorization: string): Promise<Answer> =>
      get(role, url, { range, authorization });
    expectPart(await read('bytes=0-9', 'Bearer first'), blob, 0, 9);
    good = 'Bearer second';
    const late = await read('bytes=300000-300009', 'Bearer first');
    expectError(late, [401]);
    expect(late.headers['www-authenticate']).toBe('Bearer realm="r"');
    const again = await read('bytes=300000-300009', 'Bearer second');
    expectPart(again, blob, 300_000, 300_009);
  });

  it('307 to a storage with signed URLs: followed, without the credentials', async () => {
    const blob = registry.add(BLOB_BYTES);
    storage.share(blob);
    const behave: Behaviour = (_, response) => {
      const location = storage.signedUrl(blob, `sig=${Math.random()}`);
      response.writeHead(307, { location }).end();
      return true;
    };
    const answer = await askBlob(role, blob, { behave, headers: { authorization: 'Bearer x' } });
    expectPart(answer, blob, 262_000, 262_400);
    const asked = storage.askedFor(blob.hex);
    expect(asked.length).toBeGreaterThan(0);
    expect(asked.every(({ authorization }) => authorization === undefined)).toBe(true);
  });

  it('404: 404', async () => {
    const blob = stranger.add(10);
    expectError(await askBlob(role, blob), [404]);
  });

  it('gone: a clean error at once for what nobody has', async () => {
    expectError(
      await get(role, `http://127.0.0.1:1/v2/a/blobs/sha256:${'0'.repeat(64)}`),
      [502, 503],
    );
  });
});

describe.each(ROLES)('the overlaybd prefix of a %s: servers that nobody configured', (role) => {
  it('are not reached on loopback, by whatever name', async () => {
    const blob = stranger.add(BLOB_BYTES);
    const port = stranger.address.split(':')[1];
    for (const name of ['127.0.0.1', 'localhost', '0x7f000001', '[::ffff:127.0.0.1]']) {
      for (const path of [`v2/app/blobs/${blob.digest}`, `some/file?name=${role}`]) {
        expectError(await get(role, `http://${name}:${port}/${path}`), [502, 503]);
      }
    }
    expectError(await get(role, stranger.signedUrl(blob, `sig=${role}`)), [502, 503]);
    const path = `/metadata/${role}`;
    registry.behaviours.set(path, (_, response) => {
      response.writeHead(307, { location: `http://${stranger.address}/latest` }).end();
      return true;
    });
    expectError(await get(role, `http://${registry.address}${path}`), [502]);
    expect(stranger.asked).toEqual([]);
  });
});

describe('a registry that is gone', () => {
  it('is not needed for blobs that a root or a child has', async () => {
    const blob = mortal.add(BLOB_BYTES);
    const url = mortal.url('app', blob);
    for (const role of ROLES) await get(role, url, { range: 'bytes=0-9' });
    await mortal.stop();
    for (const role of ROLES) {
      expectPart(await get(role, url, { range: 'bytes=0-104' }), blob, 0, 104);
      expectPart(await get(role, url, { range: 'bytes=1000-1104' }), blob, 1000, 1104);
    }
  });
});
