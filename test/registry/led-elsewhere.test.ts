import { writeFileSync } from 'node:fs';
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Scatter } from '../../src/util/scatter.ts';
import { sampleBytes } from '../kit/layers.ts';
import { digestOf } from '../kit/registry-content.ts';
import { startServer } from '../kit/servers.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { makeAccess } from './kit/origins.ts';

const bytes = sampleBytes(1000, 1);
const digest = digestOf(bytes);
const { signal } = new AbortController();

const basic = (text: string): string => `Basic ${Buffer.from(text).toString('base64')}`;

function serve(request: IncomingMessage, response: ServerResponse): void {
  const [, first = '0', last = '999'] =
    /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
  const body = bytes.subarray(Number(first), Number(last) + 1);
  response.writeHead(206, { 'content-range': `bytes ${first}-${last}/1000` }).end(body);
}

/** A registry that wants Basic credentials; `shown` has all that it saw. */
async function startBack() {
  const shown: (string | undefined)[] = [];
  const host = await startServer((request, response) => {
    shown.push(request.headers.authorization);
    if (request.headers.authorization === basic('reader:of-back')) serve(request, response);
    else response.writeHead(401, { 'www-authenticate': 'Basic realm="back"' }).end();
  });
  return { host, shown };
}

function leadTo(host: () => string): RequestListener {
  return (request, response) => {
    response.writeHead(307, { location: `http://${host()}${request.url}` }).end();
  };
}

function credentials(text: string): string {
  const file = join(tempFolder(), 'credentials');
  writeFileSync(file, `${text}\n`);
  return file;
}

test('the challenge of a registry that another leads to is met with what it has', async () => {
  const back = await startBack();
  const front = await startServer(leadTo(() => back.host));
  const { origin } = makeAccess([
    { host: front, insecure: true, credentialsFile: credentials('reader:of-front') },
    { host: back.host, insecure: true, credentialsFile: credentials('reader:of-back') },
  ]);
  const where = { registry: front, repository: 'app' };
  // Nobody may read it, and this host may.
  expect(await origin.stat(digest, where, signal)).toEqual({ sizeBytes: 1000, isPublic: false });
  const target = new Uint8Array(50);
  await origin.readInto(
    { digest, sizeBytes: 1000, origin: where },
    100,
    Scatter.of(target),
    signal,
  );
  expect(Buffer.from(target).equals(bytes.subarray(100, 150))).toBe(true);
  expect(new Set(back.shown)).toEqual(new Set([undefined, basic('reader:of-back')]));
});

test('a registry that nobody configured gets no credentials shown elsewhere', async () => {
  const back = await startBack();
  const { origin } = makeAccess([
    { host: back.host, insecure: true, credentialsFile: credentials('reader:of-back') },
  ]);
  // Not listed, so that it is asked over TLS, and refused for its address.
  const front = await startServer(leadTo(() => back.host));
  const where = { registry: front, repository: 'app' };
  await expect(origin.stat(digest, where, signal)).rejects.toMatchObject({ name: 'OriginError' });
  expect(back.shown).toEqual([]);
});

test('registries that lead to each other are given up', async () => {
  const challenge = { 'www-authenticate': 'Basic realm="x"' };
  const hosts: string[] = [];
  const leadOnce = (other: number): RequestListener => {
    let asked = 0;
    return (request, response) => {
      if (asked++ % 2 === 1) response.writeHead(401, challenge).end();
      else leadTo(() => hosts[other] ?? '')(request, response);
    };
  };
  hosts.push(await startServer(leadOnce(1)), await startServer(leadOnce(0)));
  const { origin } = makeAccess(hosts.map((host) => ({ host, insecure: true })));
  const where = { registry: hosts[0] ?? '', repository: 'app' };
  await expect(origin.stat(digest, where, signal)).rejects.toMatchObject({ name: 'OriginError' });
});
