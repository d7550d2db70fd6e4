import { expect, test } from 'vitest';
import { guardedLookup } from '../../src/registry/http/connections.ts';
import { isPublicAddress } from '../../src/registry/http/public-address.ts';
import { UrlSender } from '../../src/registry/url-sender.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import { sampleBytes } from '../kit/layers.ts';
import { digestOf } from '../kit/registry-content.ts';
import { startServer } from '../kit/servers.ts';
import { clientOf, makeRegistries, passingClock } from './kit/clients.ts';

const digest = digestOf(sampleBytes(1000, 1));
const { signal } = new AbortController();
const FORBIDDEN = { detail: { code: 'protocol', fault: 'forbidden-address' } };

/** A server on loopback that notes whether anybody reached it. */
async function startSecret() {
  const state = { asked: 0 };
  const host = await startServer((_request, response) => {
    state.asked++;
    response.end('secret');
  });
  return { state, port: host.split(':')[1] };
}

/** Asks as a local client that the operator does not know. */
function ask(url: string, configs: Parameters<typeof makeRegistries>[0]['registries'] = []) {
  const sender = new UrlSender({
    registries: makeRegistries({ registries: configs }),
    clock: new SystemClock(),
  });
  return sender.open({ method: 'GET', url, headers: {} }, signal);
}

test.each([
  '127.0.0.1',
  'localhost',
  '0x7f000001',
  '2130706433',
  '0177.0.0.1',
  '127.1',
  '[::ffff:127.0.0.1]',
  '[::1]',
  '0.0.0.0',
  '[::]',
])('a client that names http://%s reaches nothing there', async (name) => {
  const { state, port } = await startSecret();
  await expect(ask(`http://${name}:${port}/latest/meta-data`)).rejects.toMatchObject(FORBIDDEN);
  expect(state.asked).toBe(0);
});

test.each(['169.254.169.254', '10.0.0.1', '192.168.1.1', '[fe80::1]', '[fd00:ec2::254]'])(
  'a client that names http://%s is refused at once',
  async (name) => {
    const startedMs = performance.now();
    await expect(ask(`http://${name}/`)).rejects.toMatchObject(FORBIDDEN);
    expect(performance.now() - startedMs).toBeLessThan(1_000);
  },
);

test('a name that resolves to a special address is judged at the connection', async () => {
  const answers = [
    ['8.8.8.8', '127.0.0.1'],
    ['127.0.0.1', '::1'],
  ];
  const lookup = ((_name: string, _options: object, done: (...found: unknown[]) => void) =>
    done(
      null,
      answers.shift()?.map((address) => ({ address, family: address.includes(':') ? 6 : 4 })),
    )) as never;
  const guarded = guardedLookup(isPublicAddress, lookup);
  const resolve = () =>
    new Promise((done, fail) => {
      guarded('rebinding.example', { all: true }, (error, found) =>
        error === null ? done(found) : fail(error),
      );
    });
  expect(await resolve()).toEqual([{ address: '8.8.8.8', family: 4 }]);
  await expect(resolve()).rejects.toThrow(/rebinding.example is at no public address/);
});

test('a configured registry may have any address; other ports of its host may not', async () => {
  const { state, port } = await startSecret();
  const host = `127.0.0.1:${port}`;
  const configured = [{ host, insecure: true }];
  (await ask(`http://${host}/x`, configured)).body.destroy();
  expect(state.asked).toBe(1);
  const other = await startSecret();
  const request = ask(`http://127.0.0.1:${other.port}/x`, configured);
  await expect(request).rejects.toMatchObject(FORBIDDEN);
  expect(other.state.asked).toBe(0);
});

test('a configured registry may redirect blobs anywhere, its other pages may not', async () => {
  const { state, port } = await startSecret();
  const host = await startServer((_request, response) => {
    response.writeHead(307, { location: `http://127.0.0.1:${port}/data` }).end();
  });
  const configured = [{ host, insecure: true }];
  (await ask(`http://${host}/v2/app/blobs/${digest}`, configured)).body.destroy();
  expect(state.asked).toBe(1);
  for (const path of ['/login?next=x', '/v2/../login', '/x/../v2/app']) {
    await expect(ask(`http://${host}${path}`, configured)).rejects.toMatchObject(FORBIDDEN);
  }
  expect(state.asked).toBe(1);
});

/** A registry that nobody configured, at an address that stands for a public one. */
async function startUnlisted(answer: { status: number; headers: Record<string, string> }) {
  const host = await startServer((_request, response) => {
    response.writeHead(answer.status, answer.headers).end();
  });
  const mayReach = (address: string): boolean => address === '127.0.0.1';
  return { host, registries: makeRegistries({ registries: [], mayReach }, passingClock()) };
}

test('a server that nobody configured leads no client to the metadata of the cloud', async () => {
  const location = 'http://169.254.169.254/latest/meta-data';
  const { host, registries } = await startUnlisted({ status: 302, headers: { location } });
  const sender = new UrlSender({ registries, clock: new SystemClock() });
  const url = `http://${host}/x`;
  const followed = sender.open({ method: 'GET', url, headers: {} }, signal);
  await expect(followed).rejects.toMatchObject(FORBIDDEN);
  const request = { method: 'GET', url, headers: {}, followsRedirects: false } as const;
  const answer = await sender.open(request, signal);
  answer.body.destroy();
  expect([answer.status, answer.headers.location]).toEqual([302, location]);
});

test('an unlisted registry of a peer is not asked on loopback', async () => {
  const client = clientOf(makeRegistries({ registries: [] }, passingClock()), passingClock());
  const { state, port } = await startSecret();
  const where = { registry: `127.0.0.1:${port}`, repository: 'app' };
  await expect(client.blobSize(where, digest)).rejects.toMatchObject(FORBIDDEN);
  await expect(client.manifest(where, '1')).rejects.toMatchObject(FORBIDDEN);
  expect(state.asked).toBe(0);
});
