import { expect, test } from 'vitest';
import { parseDigest } from '../../../src/image/digest.ts';
import { defined } from '../../../src/util/assert.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { startServer } from '../../kit/servers.ts';
import { makeClient } from '../kit/clients.ts';

const [one = '', two = ''] = ['a', 'b'].map((digit) => `sha256:${digit.repeat(64)}`);
const digestOf = (text: string) => defined(parseDigest(text), 'a digest');

/** A registry that gives nothing without credentials, and asks for them as told. */
async function closed(kind: 'Basic' | 'Bearer', isOpen: (url: string) => boolean = () => false) {
  const asked: string[] = [];
  const tokens = await startServer((_request, response) => {
    asked.push('token');
    response.writeHead(401).end();
  });
  const challenge = {
    Basic: 'Basic realm="x"',
    Bearer: `Bearer realm="http://${tokens}/token",service="x"`,
  }[kind];
  const host = await startServer((request, response) => {
    const { method = '', url = '', headers } = request;
    asked.push(`${method} ${/[^/]+\/[^/:]+/.exec(url.slice('/v2/app/'.length))?.[0] ?? ''}`);
    const isIn = headers.authorization === 'Basic cm9ib3Q6cGFzcw==';
    if (isIn || isOpen(url)) response.writeHead(206, { 'content-range': 'bytes 0-0/7' }).end('x');
    else response.writeHead(401, { 'www-authenticate': challenge }).end();
  });
  return { asked, host, origin: { registry: host, repository: 'app' } };
}

test.each([
  ['Basic', ['HEAD manifests/1', 'GET manifests/1']],
  ['Bearer', ['HEAD manifests/1', 'token', 'GET manifests/1']],
] as const)('nothing is asked twice of a repository that wants %s and gets none', async (...of) => {
  const [kind, requests] = of;
  const { asked, host, origin } = await closed(kind);
  const clock = new ManualClock();
  const client = makeClient([{ host, insecure: true }], clock);
  const told: unknown[] = [];
  const note = (error: unknown): void => void told.push(error);
  await client.manifestHead(origin, '1').catch(note);
  await client.manifest(origin, '1').catch(note);
  await client.blobSize(origin, digestOf(one)).catch(note);
  await client.blobSize(origin, digestOf(two)).catch(note);
  expect(asked).toEqual(requests);
  expect(told).toHaveLength(4);
  const challenge = expect.stringContaining(kind) as unknown;
  for (const error of told) {
    expect(error).toMatchObject({ code: 'unauthorized', detail: { challenge } });
  }
  // What holds for now is asked again later.
  clock.advance(5_000);
  await client.blobSize(origin, digestOf(one)).catch(note);
  expect(asked.slice(requests.length)[0]).toBe('GET blobs/sha256');
});

test('credentials that come meanwhile are shown at once', async () => {
  const { asked, host, origin } = await closed('Basic');
  const found: { username: string; password: string }[] = [];
  const client = makeClient([{ host, insecure: true, credentials: async () => found[0] }]);
  await expect(client.blobSize(origin, digestOf(one))).rejects.toMatchObject({
    code: 'unauthorized',
  });
  found.push({ username: 'robot', password: 'pass' });
  expect(await client.blobSize(origin, digestOf(one))).toBe(7);
  expect(asked).toHaveLength(3);
});

test('one blob that wants credentials does not close a repository that is open', async () => {
  const { host, origin } = await closed('Basic', (url) => !url.includes(one));
  const client = makeClient([{ host, insecure: true }]);
  expect(await client.blobSize(origin, digestOf(two))).toBe(7);
  await expect(client.blobSize(origin, digestOf(one))).rejects.toMatchObject({
    code: 'unauthorized',
  });
  expect(await client.blobSize(origin, digestOf(two))).toBe(7);
});
