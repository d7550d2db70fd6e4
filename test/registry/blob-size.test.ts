import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { sampleBytes } from '../kit/layers.ts';
import { digestOf } from '../kit/registry-content.ts';
import { startServer } from '../kit/servers.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { Scatter } from '../../src/util/scatter.ts';
import { clientOf, makeRegistries } from './kit/clients.ts';
import { makeOrigin } from './kit/origins.ts';

const bytes = sampleBytes(1000, 1);
const digest = digestOf(bytes);
const { signal } = new AbortController();

type Behaviour = (request: IncomingMessage, response: ServerResponse) => void;

/**
 * Storage that serves ranges to any client that has its URL, and refuses HEAD: it is signed for
 * GET.
 */
const storage: RequestListener = (request, response) => {
  if (request.method === 'HEAD') response.writeHead(403).end();
  else response.writeHead(206, { 'content-range': 'bytes 0-0/1000' }).end('x');
};

const isOwner = (request: IncomingMessage): boolean => request.headers.authorization !== undefined;

/** Asks a registry that behaves as told, with credentials of the agent's own. */
async function stat(behave: Behaviour) {
  const asked: string[] = [];
  const host = await startServer((request, response) => {
    if (request.url === '/v2/') {
      response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
      return;
    }
    asked.push(`${request.method} ${isOwner(request) ? 'own' : 'nobody'}`);
    behave(request, response);
  });
  const credentialsFile = join(tempFolder(), 'credentials');
  writeFileSync(credentialsFile, 'reader:secret\n');
  const origin = makeOrigin({ host, insecure: true, credentialsFile });
  const where = { registry: host, repository: 'app' };
  const found = await origin.stat(digest, where, signal).catch((error: unknown) => error);
  return { found, asked };
}

test.each([400, 401, 403, 404, 405, 500, 501])(
  'a registry that answers HEAD of a blob with %i is asked by GET alone',
  async (code) => {
    const { found, asked } = await stat((request, response) => {
      if (request.method === 'HEAD') response.writeHead(code).end();
      else storage(request, response);
    });
    expect(found).toEqual({ sizeBytes: 1000, isPublic: true });
    expect(asked).toEqual(['GET nobody']);
  },
);

test('the sizes of many blobs do not cost a connection each', async () => {
  const sockets = new Set<unknown>();
  const host = await startServer((request, response) => {
    sockets.add(request.socket);
    serve(request, response);
  });
  const origin = makeOrigin({ host, insecure: true });
  for (let i = 0; i < 5; i++) {
    const each = digestOf(sampleBytes(10, i));
    await origin.stat(each, { registry: host, repository: 'app' }, signal);
  }
  expect(sockets.size).toBeLessThan(3);
});

test('a storage that refuses HEAD tells the size of a blob', async () => {
  const host = await startServer(storage);
  const { found } = await stat((_request, response) => {
    response.writeHead(307, { location: `http://${host}/data` }).end();
  });
  expect(found).toEqual({ sizeBytes: 1000, isPublic: true });
});

/** Serves those who have credentials. */
const serve: Behaviour = (_request, response) =>
  void response.writeHead(206, { 'content-range': 'bytes 0-0/1000' }).end('x');

test.each<[string, Behaviour]>([
  [
    'a login page after a redirect',
    async (_request, response) => {
      const login = await startServer((_, page) => {
        page.setHeader('content-type', 'text/html; charset=utf-8').end('<html>login</html>');
      });
      response.writeHead(302, { location: `http://${login}/login` }).end();
    },
  ],
  [
    'a login page without a type after a redirect',
    async (_request, response) => {
      const login = await startServer((_, page) => void page.end('log in'));
      response.writeHead(302, { location: `http://${login}/login` }).end();
    },
  ],
  [
    'a page with 200',
    (_, response) => void response.setHeader('content-type', 'text/html').end('x'),
  ],
  ['a redirect that is refused', (_, response) => void response.writeHead(302).end()],
  ['404', (_, response) => void response.writeHead(404).end()],
  ['a part without a total', (_, response) => void response.writeHead(206).end('x')],
  [
    'the digest of something else',
    (_, response) =>
      void response
        .setHeader('docker-content-digest', digestOf(Buffer.from('x')))
        .setHeader('content-length', 7)
        .end('another'),
  ],
  ['nothing at all', (_, response) => void response.setHeader('content-length', 0).end()],
])('a registry that answers strangers with %s is asked with credentials', async (_name, behave) => {
  const { found, asked } = await stat((request, response) =>
    isOwner(request) ? serve(request, response) : behave(request, response),
  );
  expect(found).toEqual({ sizeBytes: 1000, isPublic: false });
  expect(asked.at(-1)).toBe('GET own');
});

test('a storage that ignores ranges tells the size of a blob', async () => {
  const host = await startServer((_request, response) => {
    response.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': 1000 });
    response.end(Buffer.alloc(1000));
  });
  const { found } = await stat((_request, response) => {
    response.writeHead(307, { location: `http://${host}/data` }).end();
  });
  expect(found).toEqual({ sizeBytes: 1000, isPublic: true });
});

test('a registry that fails for strangers may still serve those who have credentials', async () => {
  let count = 0;
  const { found } = await stat((request, response) => {
    if (isOwner(request)) return serve(request, response);
    const status = ++count <= 2 ? 500 : 401;
    response.writeHead(status, { 'www-authenticate': 'Basic realm="x"' }).end();
  });
  expect(found).toEqual({ sizeBytes: 1000, isPublic: undefined });
});

test('a server that ignores ranges is cut off once its head told the size', async () => {
  let sent = 0;
  const { found } = await stat((_request, response) => {
    response.writeHead(200, { 'content-length': 1_000_000_000 });
    const more = (): void => {
      while (!response.destroyed && response.write(Buffer.alloc(65_536))) sent += 65_536;
    };
    response.on('drain', more);
    more();
  });
  expect(found).toEqual({ sizeBytes: 1_000_000_000, isPublic: true });
  expect(sent).toBeLessThan(20_000_000);
});

test('the error of a stat holds what the registry said', async () => {
  const { found } = await stat((_request, response) => {
    response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
  });
  expect(found).toMatchObject({
    name: 'OriginError',
    code: 'refused',
    cause: {
      name: 'RegistryError',
      detail: { code: 'unauthorized', challenge: 'Basic realm="x"' },
    },
  });
});

test('the empty blob has no byte, and no other has none', async () => {
  const empty = digestOf(new Uint8Array());
  const host = await startServer((_request, response) => {
    response.writeHead(416, { 'content-range': 'bytes */0' }).end();
  });
  const origin = makeOrigin({ host, insecure: true });
  const where = { registry: host, repository: 'app' };
  expect(await origin.stat(empty, where, signal)).toEqual({ sizeBytes: 0, isPublic: true });
  await expect(origin.stat(digest, where, signal)).rejects.toMatchObject({ code: 'protocol' });
});

test.each<[string, Behaviour]>([
  [
    'HEAD',
    (request, response) => {
      if (request.method === 'HEAD') response.setHeader('content-length', 1000).end();
      else response.writeHead(206).end('x');
    },
  ],
  [
    'a GET of all',
    (request, response) => {
      if (request.method === 'HEAD') response.writeHead(405).end();
      else if (request.headers.range === undefined) response.end(Buffer.alloc(1000));
      else response.writeHead(206, { 'content-type': 'multipart/byteranges' }).end('x');
    },
  ],
])('where a part leaves the size out, %s tells it', async (_name, behave) => {
  const { found } = await stat(behave);
  expect(found).toEqual({ sizeBytes: 1000, isPublic: true });
});

test('a part that says 200 tells the size of the whole', async () => {
  const { found } = await stat((_, response) => {
    response.setHeader('content-range', 'bytes 0-0/1000').setHeader('content-length', 1).end('x');
  });
  expect(found).toEqual({ sizeBytes: 1000, isPublic: true });
});

test('a blob that a server labels as a page is one, unless it begins like one', async () => {
  const serveAs = (first: string): Behaviour => {
    const headers = { 'content-range': 'bytes 0-0/1000', 'content-type': 'text/html' };
    return (_, response) => void response.writeHead(206, headers).end(first);
  };
  expect((await stat(serveAs('\x1f'))).found).toEqual({ sizeBytes: 1000, isPublic: true });
  expect((await stat(serveAs('<'))).found).toMatchObject({ code: 'protocol' });
});

test('a blob that came whole when its size was asked for is then read by one request', async () => {
  const ranges: (string | undefined)[] = [];
  const host = await startServer((request, response) => {
    ranges.push(request.headers.range);
    response.writeHead(200, { 'content-length': bytes.length }).end(bytes);
  });
  const registries = makeRegistries({ registries: [{ host, insecure: true }] });
  const client = clientOf(registries);
  const origin = { registry: host, repository: 'app' };
  const sizeBytes = await client.blobSize(origin, digest);
  for (const offset of [0, 100, 500]) {
    const target = new Uint8Array(50);
    await client.readBlobInto({ digest, sizeBytes, origin }, offset, Scatter.of(target));
    expect(Buffer.from(target).equals(bytes.subarray(offset, offset + 50))).toBe(true);
  }
  expect(ranges).toEqual(['bytes=0-0', undefined]);
});
