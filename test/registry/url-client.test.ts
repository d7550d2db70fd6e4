import { text } from 'node:stream/consumers';
import { expect, test } from 'vitest';
import type { RegistryConfig } from '../../src/registry/registries.ts';
import { UrlClient } from '../../src/registry/url-client.ts';
import { UrlSender } from '../../src/registry/url-sender.ts';
import { DeadlineError, within } from '../../src/runtime/deadline.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import { Scatter } from '../../src/util/scatter.ts';
import { digestOf } from '../kit/registry-content.ts';
import { startServer } from '../kit/servers.ts';
import { makeRegistries } from './kit/clients.ts';

const { signal } = new AbortController();

/** Reaches loopback, where the servers of these tests are. */
function makeUrlClient(configs: readonly RegistryConfig[] = []): UrlClient {
  const registries = makeRegistries({ registries: configs, mayReach: () => true });
  const sender = new UrlSender({ registries, clock: new SystemClock() });
  return new UrlClient({
    load: async () => sender,
  });
}

function get(client: UrlClient, url: string, headers: Record<string, string> = {}) {
  return client.open({ method: 'GET', url, headers }, signal);
}

test('UrlClient.open() sends the URL as it is', async () => {
  const seen: (string | undefined)[] = [];
  const host = await startServer((request, response) => {
    seen.push(request.url);
    response.end('x');
  });
  const client = makeUrlClient();
  for (const rest of ['/a%2Fb/%7e?s=%2b+~&t=a|b', '/../x/./y', '', '?q']) {
    await text((await get(client, `http://${host}${rest}`)).body);
  }
  expect(seen).toEqual(['/a%2Fb/%7e?s=%2b+~&t=a|b', '/../x/./y', '/', '/?q']);
});

test('UrlClient.open() gives every status and does not retry', async () => {
  let calls = 0;
  const host = await startServer((_, response) => {
    calls++;
    response.writeHead(401, { 'www-authenticate': ['Basic realm="a"', 'Bearer realm="b"'] }).end();
  });
  const answer = await get(makeUrlClient(), `http://${host}/`);
  expect([answer.status, calls]).toEqual([401, 1]);
  expect(answer.headers['www-authenticate']).toEqual(['Basic realm="a"', 'Bearer realm="b"']);
});

test('UrlClient.open() follows redirections; credentials stay with the first host', async () => {
  const seen: unknown[] = [];
  const storage = await startServer((request, response) => {
    seen.push([request.headers.authorization, request.headers.range]);
    response.end('stored');
  });
  const host = await startServer((request, response) => {
    seen.push([request.headers.authorization, request.headers.range]);
    const location = request.url === '/1' ? '/2' : `http://${storage}/x?sig=%2F`;
    response.writeHead(307, { location }).end();
  });
  const headers = { authorization: 'Bearer t', range: 'bytes=0-9' };
  const answer = await get(makeUrlClient(), `http://${host}/1`, headers);
  expect(await text(answer.body)).toBe('stored');
  const own = ['Bearer t', 'bytes=0-9'];
  expect(seen).toEqual([own, own, [undefined, 'bytes=0-9']]);
});

test('UrlClient.open() refuses endless redirections, other schemes and silent hosts', async () => {
  const host = await startServer((request, response) => {
    const location = request.url === '/file' ? 'file:///etc/passwd' : '/again';
    response.writeHead(302, { location }).end();
  });
  const client = makeUrlClient();
  const protocol = { code: 'protocol' };
  await expect(get(client, `http://${host}/`)).rejects.toMatchObject(protocol);
  await expect(get(client, `http://${host}/file`)).rejects.toMatchObject(protocol);
  await expect(get(client, 'ftp://a/')).rejects.toMatchObject(protocol);
  await expect(get(client, 'http://127.0.0.1:1/')).rejects.toMatchObject({ code: 'unavailable' });
  const reason = new Error('no longer wanted');
  const aborted = client.open(
    { method: 'GET', url: `http://${host}/`, headers: {} },
    AbortSignal.abort(reason),
  );
  await expect(aborted).rejects.toBe(reason);
});

test('UrlClient.open() takes the scheme of a registry from the configuration', async () => {
  const host = await startServer((_, response) => void response.end('plain'));
  const client = makeUrlClient([{ host, insecure: true }]);
  expect(await text((await get(client, `https://${host}/`)).body)).toBe('plain');
  const strict = makeUrlClient([{ host }]);
  await expect(get(strict, `http://${host}/`)).rejects.toMatchObject({ code: 'unavailable' });
});

test('UrlClient.fill() takes exactly the range, and nothing else', async () => {
  const bytes = Buffer.from('0123456789');
  const asked: string[] = [];
  const host = await startServer((request, response) => {
    asked.push(`${request.url} ${request.headers.range}`);
    const { range } = request.headers;
    if (request.url === '/refused' && range !== undefined) response.writeHead(416).end();
    else if (request.url === '/whole' || request.url === '/refused')
      response.writeHead(200, { 'content-length': 10 }).end(bytes);
    else if (request.url === '/short') {
      response.writeHead(206, { 'content-range': 'bytes 2-5/10' }).end('2');
    } else if (request.url === '/moved') response.writeHead(307, { location: '/part' }).end('away');
    else if (request.url === '/over') response.writeHead(401).end('who are you?');
    else if (request.url === '/parts') {
      const first = Number(/\d/.exec(request.headers.range ?? '')?.[0]);
      response.writeHead(206, { 'content-range': `bytes ${first}-${first}/10` }).end(`${first}`);
    } else response.writeHead(206, { 'content-range': 'bytes 2-5/10' }).end('2345');
  });
  const client = makeUrlClient();
  const fill = async (path: string): Promise<string> => {
    const target = new Uint8Array(4);
    const run = {
      blob: digestOf(Buffer.from(path)),
      offset: 2,
      target: Scatter.of(target),
      sizeBytes: 10,
    };
    const request = { method: 'GET', url: `http://${host}${path}`, headers: {} } as const;
    const refused = await client.fill(request, run, signal);
    return refused === undefined ? Buffer.from(target).toString() : String(refused.status);
  };
  expect(await fill('/part')).toBe('2345');
  expect(await fill('/moved')).toBe('2345');
  expect(await fill('/over')).toBe('401');
  asked.length = 0;
  expect(await fill('/whole')).toBe('2345');
  expect(asked).toEqual(['/whole bytes=2-5', '/whole undefined']);
  expect(await fill('/refused')).toBe('2345');
  asked.length = 0;
  expect(await fill('/parts')).toBe('2345');
  expect(asked).toEqual([2, 3, 4, 5].map((first) => `/parts bytes=${first}-5`));
  await expect(fill('/short')).rejects.toMatchObject({ detail: { fault: 'short-body' } });
});

test('UrlClient.open() tells an attacker with all connections from a silent server', async () => {
  const host = await startServer((request, response) => {
    if (request.url === '/slow') response.writeHead(200).write('x');
  });
  const client = makeUrlClient();
  const ask = (path: string) =>
    within(new SystemClock(), 300, (limit) =>
      client.open({ method: 'GET', url: `http://${host}${path}`, headers: {} }, limit),
    );
  await expect(ask('/silent')).rejects.toBeInstanceOf(DeadlineError);
  const taken = await Promise.all(
    Array.from({ length: 32 }, () => get(client, `http://${host}/slow`)),
  );
  await expect(ask('/silent')).rejects.toMatchObject({ code: 'overloaded' });
  for (const { body } of taken) body.destroy();
  await expect(ask('/silent')).rejects.toBeInstanceOf(DeadlineError);
});
