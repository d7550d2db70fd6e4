import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import type { RequestListener } from 'node:http';
import { expect, onTestFinished, test } from 'vitest';
import type { Credentials, CredentialsSource } from '../../src/registry/auth/auth.ts';
import { readLocation } from '../../src/registry/http/location.ts';
import { digestOf } from '../kit/registry-content.ts';
import type { ManualClock } from '../kit/manual-clock.ts';
import { sampleBytes } from '../kit/layers.ts';
import { startServer } from '../kit/servers.ts';
import { clientOf, makeClient, makeRegistries, passingClock } from './kit/clients.ts';
import { Scatter } from '../../src/util/scatter.ts';

const bytes = sampleBytes(1000, 1);
const digest = digestOf(bytes);

/** Reads bytes 100 to 149 of the blob from a registry that behaves as told. */
async function read(
  listener: RequestListener,
  options: { readonly clock?: ManualClock; readonly timeoutMs?: number } = {},
): Promise<Uint8Array> {
  return readFrom(await startServer(listener), options);
}

async function readFrom(
  host: string,
  options: { readonly clock?: ManualClock; readonly timeoutMs?: number } = {},
): Promise<Uint8Array> {
  const { clock = passingClock(), timeoutMs } = options;
  const credentials = async () => ({ username: 'reader', password: 'secret' });
  const client = makeClient([{ host, insecure: true, credentials }], clock);
  const target = new Uint8Array(50);
  const origin = { registry: host, repository: 'app' };
  const blob = { digest, sizeBytes: bytes.length, origin };
  await client.readBlobInto(
    blob,
    100,
    Scatter.of(target),
    timeoutMs === undefined ? {} : { timeoutMs },
  );
  return target;
}

const right = bytes.slice(100, 150);

/** A sound answer to what `read()` asks. */
const answer: RequestListener = (_request, response) => {
  response.writeHead(206, { 'content-range': 'bytes 100-149/1000', 'content-length': 50 });
  response.end(right);
};

/** Behaves like this for one request after the other; the last one stays. */
function inTurn(...listeners: readonly RequestListener[]): RequestListener {
  let count = 0;
  return (request, response) =>
    listeners[Math.min(count++, listeners.length - 1)]?.(request, response);
}

const refuse =
  (status: number, headers: Record<string, string> = {}): RequestListener =>
  (_request, response) =>
    void response.writeHead(status, headers).end();

test('RegistryClient sends credentials to the registry alone, not after a redirect', async () => {
  const seen: (string | undefined)[] = [];
  const storage = await startServer((request, response) => {
    seen.push(request.headers.authorization);
    answer(request, response);
  });
  const got = await read((request, response) => {
    if (request.headers.authorization === undefined) {
      response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
    } else {
      response.writeHead(307, { location: `http://${storage}/data?signature=1` }).end();
    }
  });
  expect(got).toEqual(right);
  expect(seen).toEqual([undefined]);
});

test('RegistryClient asks the known storage of a blob at once, until that fails', async () => {
  const storage = await startServer(inTurn(answer, answer, refuse(403), answer));
  let asked = 0;
  const host = await startServer((_request, response) => {
    asked++;
    response.writeHead(307, { location: `http://${storage}/data?signature=${asked}` }).end();
  });
  const client = makeClient([{ host, insecure: true }], passingClock());
  const blob = { digest, sizeBytes: 1000, origin: { registry: host, repository: 'app' } };
  const target = new Uint8Array(50);
  await client.readBlobInto(blob, 100, Scatter.of(target));
  await client.readBlobInto(blob, 100, Scatter.of(target));
  expect(asked).toBe(1);
  await client.readBlobInto(blob, 100, Scatter.of(target));
  expect(asked).toBe(2);
});

test('RegistryClient gives up on a circle of redirects', async () => {
  const circle: RequestListener = (request, response) =>
    void response.writeHead(307, { location: request.url ?? '/' }).end();
  await expect(read(circle)).rejects.toMatchObject({
    detail: { code: 'protocol', fault: 'too-many-redirects' },
  });
});

test.each(['ftp://elsewhere/', 'http://user:password@elsewhere/', 'http://[', ''])(
  'RegistryClient follows no redirect to %j',
  async (location) => {
    await expect(read(refuse(302, { location }))).rejects.toMatchObject({
      detail: { code: 'protocol', fault: location === '' ? 'too-many-redirects' : 'bad-location' },
    });
  },
);

test('RegistryClient waits as long as a 429 asks, in seconds or by date', async () => {
  const clock = passingClock();
  const date = new Date(clock.wallMs() + 12_000).toUTCString();
  const limited = [refuse(429, { 'retry-after': '7' }), refuse(429, { 'retry-after': date })];
  expect(await read(inTurn(...limited, answer), { clock })).toEqual(right);
  const [first, second] = clock.slept;
  expect(first).toBe(7_000);
  expect(second).toBeGreaterThan(3_000);
  expect(second).toBeLessThanOrEqual(5_000);
});

test('RegistryClient tells at once when a 429 asks for more than the deadline leaves', async () => {
  const clock = passingClock();
  const limited = refuse(429, { 'retry-after': '40' });
  await expect(read(limited, { clock, timeoutMs: 30_000 })).rejects.toMatchObject({
    detail: { code: 'rate-limited', retryAfterMs: 40_000 },
  });
  expect(clock.slept).toEqual([]);
});

test('RegistryClient tries again after 5xx, with delays that double', async () => {
  const clock = passingClock();
  const failing = [500, 502, 503, 504].map((status) => refuse(status));
  expect(await read(inTurn(...failing, answer), { clock })).toEqual(right);
  expect(clock.slept).toEqual([150, 300, 600, 1200]);
});

test('RegistryClient gives up after five attempts', async () => {
  const clock = passingClock();
  await expect(read(refuse(503), { clock })).rejects.toMatchObject({
    detail: { code: 'unavailable', status: 503 },
  });
  expect(clock.slept.length).toBe(4);
});

test.each([
  [401, 'unauthorized'],
  [403, 'denied'],
  [404, 'not-found'],
  [418, 'protocol'],
])('RegistryClient does not try again after %i', async (status, code) => {
  const clock = passingClock();
  const headers = { 'www-authenticate': 'Basic realm="x"' };
  await expect(read(refuse(status, headers), { clock })).rejects.toMatchObject({ code });
  expect(clock.slept).toEqual([]);
});

test('RegistryClient asks at once for the rest when the connection breaks', async () => {
  const ranges: string[] = [];
  const broken: RequestListener = (request, response) => {
    const { range = '' } = request.headers;
    ranges.push(range);
    const first = Number(/^bytes=(\d+)-/.exec(range)?.[1]);
    const headers = { 'content-range': `bytes ${first}-149/1000`, 'content-length': 150 - first };
    response.writeHead(206, headers);
    response.write(bytes.subarray(first, first + 20), () => response.destroy());
  };
  const clock = passingClock();
  expect(await read(broken, { clock })).toEqual(right);
  expect(ranges).toEqual(['bytes=100-149', 'bytes=120-149', 'bytes=140-149']);
  expect(clock.slept).toEqual([]);
});

test('RegistryClient tries again when the connection breaks before the body', async () => {
  const broken: RequestListener = (_request, response) => {
    response.writeHead(206, { 'content-range': 'bytes 100-149/1000', 'content-length': 50 });
    response.flushHeaders();
    setImmediate(() => response.destroy());
  };
  expect(await read(inTurn(broken, answer))).toEqual(right);
  await expect(read(broken)).rejects.toMatchObject({
    detail: { code: 'protocol', fault: 'cut-body' },
  });
});

test('RegistryClient refuses a body that ends before its range does', async () => {
  const short: RequestListener = (_request, response) => {
    response.writeHead(206, { 'content-range': 'bytes 100-149/1000' });
    response.end(right.slice(0, 49));
  };
  await expect(read(short)).rejects.toMatchObject({ detail: { fault: 'short-body' } });
});

test('RegistryClient refuses a body that goes on after its range', async () => {
  const endless: RequestListener = (_request, response) => {
    response.writeHead(206, { 'content-range': 'bytes 100-149/1000' });
    const more = (): void => {
      while (!response.destroyed && response.write(bytes));
    };
    response.on('drain', more);
    more();
  };
  await expect(read(endless)).rejects.toMatchObject({ detail: { fault: 'bad-content-range' } });
});

test.each([
  [undefined],
  ['bytes 100-149/999'],
  ['bytes 101-150/1000'],
  ['bytes 100-148/1000'],
  ['bytes 0-49/1000'],
  ['bytes 100-149'],
  ['items 100-149/1000'],
])('RegistryClient refuses a 206 with Content-Range %j', async (range) => {
  const listener: RequestListener = (_request, response) => {
    response.writeHead(206, range === undefined ? {} : { 'content-range': range }).end(right);
  };
  await expect(read(listener)).rejects.toMatchObject({ detail: { fault: 'bad-content-range' } });
});

test('RegistryClient accepts a 206 that does not know the size of the blob', async () => {
  const listener: RequestListener = (_request, response) => {
    response.writeHead(206, { 'content-range': 'bytes 100-149/*' }).end(right);
  };
  expect(await read(listener)).toEqual(right);
});

test('RegistryClient refuses a coded body, unless its size is that of the stored one', async () => {
  const coded =
    (total: string, coding: string): RequestListener =>
    (_request, response) => {
      const headers = { 'content-range': `bytes 100-149/${total}`, 'content-encoding': coding };
      response.writeHead(206, headers).end(right);
    };
  await expect(read(coded('*', 'gzip'))).rejects.toMatchObject({ detail: { fault: 'bad-coding' } });
  expect(await read(coded('1000', 'x-gzip'))).toEqual(right);
});

test('RegistryClient takes its range from a 200 that has the size of the blob', async () => {
  const whole: RequestListener = (_request, response) => void response.writeHead(200).end(bytes);
  expect(await read(whole)).toEqual(right);
  const host = await startServer(whole);
  const client = makeClient([{ host, insecure: true }], passingClock());
  const origin = { registry: host, repository: 'app' };
  const blob = { digest, sizeBytes: 2 ** 30, origin };
  const far = client.readBlobInto(blob, 2 ** 29, Scatter.of(new Uint8Array(10)));
  await expect(far).rejects.toMatchObject({ detail: { fault: 'short-body' } });
});

test('RegistryClient asks a second time after 10 s of silence', async () => {
  const clock = passingClock();
  const silent: RequestListener = () => clock.advance(10_000);
  expect(await read(inTurn(silent, answer), { clock })).toEqual(right);
  expect(clock.slept).toEqual([]);
});

test('RegistryClient keeps its first request open to the end at a silent registry', async () => {
  const clock = passingClock();
  let asked = 0;
  let finish = (): void => {};
  const reading = read(
    (request, response) => {
      asked++;
      if (asked === 1) finish = () => answer(request, response);
      // What a cache does that fetches the blob first, and starts over when its client goes away.
      clock.advance(10_000);
      if (asked === 2) setTimeout(finish, 20);
    },
    { clock },
  );
  expect(await reading).toEqual(right);
  expect(asked).toBe(2);
});

test('RegistryClient keeps its deadline whatever the registry does', async () => {
  const clock = passingClock();
  const silent: RequestListener = () => clock.advance(5_000);
  await expect(read(silent, { clock, timeoutMs: 5_000 })).rejects.toMatchObject({
    detail: { code: 'timeout', timeoutMs: 5_000 },
  });
});

test('RegistryClient writes nothing into the target after the caller has given up', async () => {
  const abort = new AbortController();
  let finish = (): void => {};
  const host = await startServer((_request, response) => {
    response.writeHead(206, { 'content-range': 'bytes 100-149/1000', 'content-length': 50 });
    response.write(right.slice(0, 1), () => abort.abort(new Error('enough')));
    finish = () => void response.end(right.slice(1));
  });
  const registries = makeRegistries({ registries: [{ host, insecure: true }] }, passingClock());
  const client = clientOf(registries, passingClock());
  const blob = { digest, sizeBytes: 1000, origin: { registry: host, repository: 'app' } };
  const target = new Uint8Array(50);
  const reading = client.readBlobInto(blob, 100, Scatter.of(target), { signal: abort.signal });
  await expect(reading).rejects.toThrow('enough');
  const before = target.slice();
  finish();
  await registries.close();
  expect(target).toEqual(before);
});

test.each([
  ['nothing', {}],
  ['garbage', { 'www-authenticate': '"=,,\\ Bearer realm' }],
  ['a scheme of its own', { 'www-authenticate': 'Negotiate' }],
  ['a token server that is no URL', { 'www-authenticate': 'Bearer realm="token server"' }],
  ['a file as token server', { 'www-authenticate': 'Bearer realm="file:///etc/passwd"' }],
])('RegistryClient fails at a 401 with %s', async (_name, headers) => {
  await expect(read(refuse(401, headers))).rejects.toMatchObject({
    detail: { code: 'protocol', fault: 'bad-challenge' },
  });
});

test.each([
  ['no JSON', 'token=secret'],
  ['no token', '{}'],
  ['a token that breaks the header', '{"token":"a\\r\\nb"}'],
  ['too long a token', JSON.stringify({ token: 'x'.repeat(20_000) })],
])('RegistryClient fails when the token server gives %s', async (_name, text) => {
  const tokens = await startServer((_request, response) => void response.end(text));
  const challenge = `Bearer realm="http://${tokens}/token",service="x"`;
  const error: unknown = await read(refuse(401, { 'www-authenticate': challenge })).catch(
    (reason: unknown) => reason,
  );
  expect(error).toMatchObject({ detail: { code: 'protocol', fault: 'bad-token' } });
  expect(String(error)).not.toContain('secret');
});

test('RegistryClient bounds what a token server may send', async () => {
  const tokens = await startServer((_request, response) => void response.end('x'.repeat(100_000)));
  const challenge = `Bearer realm="http://${tokens}/token"`;
  await expect(read(refuse(401, { 'www-authenticate': challenge }))).rejects.toMatchObject({
    code: 'too-large',
  });
});

test.each<[string, Credentials, string]>([
  ['a password', { username: 'reader', password: 'top secret' }, 'bad-location'],
  ['an identity token', { identityToken: 'top secret' }, 'unexpected-status'],
])(
  'RegistryClient sends %s to the token server alone, not after a redirect',
  async (_name, login, fault) => {
    let elsewhere = 0;
    const other = await startServer((_request, response) => {
      elsewhere++;
      response.end('{"token":"t"}');
    });
    const location = `http://${other}/token`;
    const tokens = await startServer(refuse(307, { location }));
    const challenge = `Bearer realm="http://${tokens}/token"`;
    const host = await startServer(refuse(401, { 'www-authenticate': challenge }));
    const registries = [{ host, insecure: true, credentials: async () => login }];
    const client = makeClient(registries, passingClock());
    const size = client.blobSize({ registry: host, repository: 'app' }, digest);
    const error: unknown = await size.catch((reason: unknown) => reason);
    expect(error).toMatchObject({ detail: { code: 'protocol', fault } });
    expect(String(error)).not.toContain('secret');
    expect(elsewhere).toBe(0);
  },
);

test('RegistryClient follows a token server that leads on within its host', async () => {
  const shown: (string | undefined)[] = [];
  const tokens = await startServer((request, response) => {
    shown.push(request.headers.authorization);
    if (request.url?.startsWith('/token/') === true) response.end('{"token":"t"}');
    else response.writeHead(301, { location: `/token/?${request.url?.split('?')[1]}` }).end();
  });
  const challenge = `Bearer realm="http://${tokens}/token"`;
  const host = await startServer((request, response) => {
    if (request.headers.authorization === 'Bearer t') {
      response.writeHead(206, { 'content-range': 'bytes 0-0/1000' }).end('x');
    } else refuse(401, { 'www-authenticate': challenge })(request, response);
  });
  const credentials = async () => ({ username: 'reader', password: 'secret' });
  const client = makeClient([{ host, insecure: true, credentials }], passingClock());
  expect(await client.blobSize({ registry: host, repository: 'app' }, digest)).toBe(1000);
  const basic = `Basic ${Buffer.from('reader:secret').toString('base64')}`;
  expect(shown).toEqual([basic, basic]);
});

test('RegistryClient asks for the credentials of each repository', async () => {
  const seen: (string | undefined)[] = [];
  const host = await startServer((request, response) => {
    const { authorization } = request.headers;
    seen.push(authorization && Buffer.from(authorization.slice(6), 'base64').toString());
    if (authorization === undefined) {
      refuse(401, { 'www-authenticate': 'Basic realm="x"' })(request, response);
    } else response.writeHead(200, { 'content-length': 1000 }).end();
  });
  const credentials = async (repository: string) => ({ username: repository, password: 'x' });
  const client = makeClient([{ host, insecure: true, credentials }], passingClock());
  for (const repository of ['app', 'team/app', 'app']) {
    await client.blobSize({ registry: host, repository }, digest);
  }
  expect(seen).toEqual([undefined, 'app:x', undefined, 'team/app:x', 'app:x']);
});

test('RegistryClient renews a token before it ends, and once when it is refused', async () => {
  const clock = passingClock();
  let issued = 0;
  const tokens = await startServer((_request, response) => {
    response.end(JSON.stringify({ access_token: `token-${++issued}`, expires_in: 60 }));
  });
  const seen: (string | undefined)[] = [];
  let good = 'Bearer token-1';
  const host = await startServer((request, response) => {
    seen.push(request.headers.authorization);
    const challenge = `Bearer realm="http://${tokens}/token",service="x",scope="repository:app:pull"`;
    if (request.headers.authorization === good) answer(request, response);
    else response.writeHead(401, { 'www-authenticate': challenge }).end();
  });
  const client = makeClient([{ host, insecure: true }], clock);
  const blob = { digest, sizeBytes: 1000, origin: { registry: host, repository: 'app' } };
  const target = new Uint8Array(50);
  await client.readBlobInto(blob, 100, Scatter.of(target));
  clock.advance(44_000);
  await client.readBlobInto(blob, 100, Scatter.of(target));
  expect(issued).toBe(1);
  clock.advance(1_000);
  good = 'Bearer token-2';
  await client.readBlobInto(blob, 100, Scatter.of(target));
  good = 'Bearer token-3';
  await client.readBlobInto(blob, 100, Scatter.of(target));
  expect(seen.map((value) => value?.at(-1))).toEqual([undefined, '1', '1', '2', '2', '3']);
});

test.each<[string, Credentials[], string[]]>([
  ['nobody', [], ['none']],
  ['one user', [{ username: 'a', password: 'x' }], ['a']],
  ['two', [{ username: 'a', password: 'x' }, { registryToken: 'r' }], ['a', 'r']],
])('RegistryClient gives up when a new token is refused: %s', async (_name, known, owners) => {
  const tokens = await startServer((request, response) => {
    const line = request.headers.authorization?.slice(6) ?? '';
    const owner = Buffer.from(line, 'base64').toString().split(':')[0] || 'none';
    response.end(JSON.stringify({ token: owner }));
  });
  const seen: (string | undefined)[] = [];
  const host = await startServer((request, response) => {
    seen.push(request.headers.authorization?.slice(7));
    refuse(401, { 'www-authenticate': `Bearer realm="http://${tokens}/token"` })(request, response);
  });
  const credentials: CredentialsSource = async (_repository, refused) => known[refused.length];
  const client = makeClient([{ host, insecure: true, credentials }], passingClock());
  const size = client.blobSize({ registry: host, repository: 'app' }, digest);
  await expect(size).rejects.toMatchObject({ code: 'unauthorized' });
  expect(seen).toEqual([undefined, ...owners]);
});

test('RegistryClient asks for one token however many requests need it', async () => {
  let issued = 0;
  const tokens = await startServer((_request, response) => {
    issued++;
    response.end('{"token":"t"}');
  });
  const host = await startServer((request, response) => {
    const challenge = `Bearer realm="http://${tokens}/token"`;
    if (request.headers.authorization === 'Bearer t') answer(request, response);
    else response.writeHead(401, { 'www-authenticate': challenge }).end();
  });
  const client = makeClient([{ host, insecure: true }], passingClock());
  const blob = { digest, sizeBytes: 1000, origin: { registry: host, repository: 'app' } };
  const targets = Array.from({ length: 20 }, () => new Uint8Array(50));
  await Promise.all(targets.map((target) => client.readBlobInto(blob, 100, Scatter.of(target))));
  expect(targets.every((target) => Buffer.from(target).equals(right))).toBe(true);
  expect(issued).toBe(1);
});

test.each([
  ['does not speak HTTP', 'SSH-2.0-nothing\r\n\r\n'],
  ['says two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\nContent-Length: 3\r\n\r\nabc'],
  [
    'says a length and sends chunks',
    'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n' +
      '3\r\nabc\r\n0\r\n\r\n',
  ],
])('RegistryClient refuses a server that %s', async (_name, answer) => {
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.end(answer);
  }).listen(0, '127.0.0.1');
  onTestFinished(() => void server.close());
  await once(server, 'listening');
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  await expect(readFrom(host)).rejects.toMatchObject({ detail: { fault: 'not-http' } });
});

test('RegistryClient reads stored bytes whose transfer is said to be coded', async () => {
  const head =
    'HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 100-149/1000\r\n' +
    'Transfer-Encoding: gzip\r\n\r\n';
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.end(Buffer.concat([Buffer.from(head), right]));
  }).listen(0, '127.0.0.1');
  onTestFinished(() => void server.close());
  await once(server, 'listening');
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  expect(await readFrom(host)).toEqual(right);
});

test('RegistryClient says that nobody listens', async () => {
  await expect(readFrom('127.0.0.1:1')).rejects.toMatchObject({
    code: 'unavailable',
    message: expect.stringContaining('ECONNREFUSED') as string,
  });
});

test('RegistryClient.manifest() checks the digest and bounds the size', async () => {
  const sizes: Record<string, number> = { small: 100, large: 4 * 2 ** 20 + 1 };
  const host = await startServer((request, response) => {
    const tag = request.url?.split('/').at(-1) ?? '';
    response.end('{"schemaVersion":2}'.padEnd(sizes[tag] ?? 100));
  });
  const client = makeClient([{ host, insecure: true }], passingClock());
  const origin = { registry: host, repository: 'app' };
  await expect(client.manifest(origin, digest)).rejects.toMatchObject({ code: 'digest-mismatch' });
  await expect(client.manifest(origin, 'large')).rejects.toMatchObject({ code: 'too-large' });
  expect((await client.manifest(origin, 'small')).bytes.length).toBe(100);
});

test('RegistryClient asks mirrors first, without credentials, then the registry', async () => {
  const seen: (string | undefined)[] = [];
  const mirror = await startServer((request, response) => {
    seen.push(`${request.headers.authorization} ${request.url?.split('?')[1]}`);
    if (seen.length === 1) answer(request, response);
    else response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
  });
  let asked = 0;
  const host = await startServer((request, response) => {
    asked++;
    answer(request, response);
  });
  const credentials = async () => ({ username: 'reader', password: 'secret' });
  const mirrors = [`http://${mirror}`];
  const client = makeClient([{ host, insecure: true, mirrors, credentials }], passingClock());
  const blob = { digest, sizeBytes: 1000, origin: { registry: host, repository: 'app' } };
  await client.readBlobInto(blob, 100, Scatter.of(new Uint8Array(50)));
  expect(asked).toBe(0);
  await client.readBlobInto(blob, 100, Scatter.of(new Uint8Array(50)));
  expect(asked).toBe(1);
  expect(seen).toEqual(Array(2).fill(`undefined ns=${encodeURIComponent(host)}`));
});

test('RegistryClient leaves a mirror alone for 30 s when it cannot be reached', async () => {
  const clock = passingClock();
  let mirrored = 0;
  const mirror = await startServer((_request, response) => {
    mirrored++;
    response.writeHead(503).end();
  });
  const host = await startServer(answer);
  const mirrors = [`http://${mirror}`];
  const client = makeClient([{ host, insecure: true, mirrors }], clock);
  const blob = { digest, sizeBytes: 1000, origin: { registry: host, repository: 'app' } };
  const target = new Uint8Array(50);
  await client.readBlobInto(blob, 100, Scatter.of(target));
  await client.readBlobInto(blob, 100, Scatter.of(target));
  expect(mirrored).toBe(1);
  clock.advance(30_000);
  await client.readBlobInto(blob, 100, Scatter.of(target));
  expect(mirrored).toBe(2);
});

test.each([
  ['http://storage.example/x', 'https://registry.example/', undefined],
  ['/elsewhere', 'https://registry.example/x', 'https://registry.example/elsewhere'],
  ['https://storage.example/x?s=1', 'http://registry/', 'https://storage.example/x?s=1'],
  ['//storage.example/x', 'https://registry.example/', 'https://storage.example/x'],
  [undefined, 'https://registry.example/', undefined],
])('readLocation() of %s from %s is %s', (location, from, expected) => {
  const headers = location === undefined ? {} : { location };
  const go = () => readLocation({ status: 307, headers }, new URL(from)).href;
  if (expected === undefined) expect(go).toThrow(/refused/);
  else expect(go()).toBe(expected);
});

test('RegistryClient refuses operations when too many wait for their registry alone', async () => {
  const clock = passingClock();
  const host = await startServer(() => {});
  const sound = await startServer(answer);
  const hosts = [host, sound].map((each) => ({ host: each, insecure: true }));
  const registries = makeRegistries({ registries: hosts }, clock);
  const client = clientOf(registries, clock);
  const origin = { registry: host, repository: 'app' };
  const waiting = Array.from({ length: 256 }, () => client.blobSize(origin, digest));
  for (const view of ['own', 'nobody'] as const) {
    const size = clientOf(registries, clock, view).blobSize(origin, digest);
    await expect(size).rejects.toMatchObject({ code: 'overloaded' });
  }
  const elsewhere = { digest, sizeBytes: 1000, origin: { ...origin, registry: sound } };
  await client.readBlobInto(elsewhere, 100, Scatter.of(new Uint8Array(50)));
  clock.advance(30_000);
  const codes = await Promise.all(waiting.map((size) => size.catch((error) => error.code)));
  expect(new Set(codes)).toEqual(new Set(['timeout']));
});

test('RegistryClient refuses names that no URL may hold, and all calls once closed', async () => {
  const registries = makeRegistries({ registries: [] });
  const client = clientOf(registries);
  for (const repository of ['../secret', 'app?x', 'App', '', 'a//b', 'a#b', 'a%2fb']) {
    const size = client.blobSize({ registry: '127.0.0.1', repository }, digest);
    await expect(size).rejects.toMatchObject({ code: 'invalid-reference' });
  }
  for (const registry of ['a/b', 'user@host', 'host:0', 'host:70000', '']) {
    const size = client.blobSize({ registry, repository: 'app' }, digest);
    await expect(size).rejects.toMatchObject({ code: 'invalid-reference' });
  }
  await registries.close();
  const size = client.blobSize({ registry: 'host', repository: 'app' }, digest);
  await expect(size).rejects.toMatchObject({ code: 'closed' });
});
