import { readFileSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { expect, test } from 'vitest';
import { Scatter } from '../../src/util/scatter.ts';
import { makeCertificates } from '../kit/certificates.ts';
import { sampleBytes } from '../kit/layers.ts';
import { ManualClock } from '../kit/manual-clock.ts';
import { digestOf } from '../kit/registry-content.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { listen } from '../kit/servers.ts';
import { makeClient } from './kit/clients.ts';

const bytes = sampleBytes(1000, 1);
const digest = digestOf(bytes);

/** A registry over HTTPS whose token server and storage are a host over plain HTTP. */
async function rig(entry: (plain: string) => readonly object[]) {
  const tls = makeCertificates(tempFolder());
  const plain = await listen(
    createServer((request, response) => {
      if (request.url?.startsWith('/token') === true) return void response.end('{"token":"T"}');
      const range = { 'content-range': 'bytes 0-999/1000', 'content-length': 1000 };
      response.writeHead(206, range).end(bytes);
    }),
  );
  const answer: RequestListener = (request, response) => {
    if (request.headers.authorization !== 'Bearer T') {
      const challenge = `Bearer realm="http://${plain}/token",service="s"`;
      return void response.writeHead(401, { 'www-authenticate': challenge }).end();
    }
    response.writeHead(307, { location: `http://${plain}/data` }).end();
  };
  const files = { cert: readFileSync(tls.certificateFile), key: readFileSync(tls.keyFile) };
  const host = await listen(createTlsServer(files, answer));
  const open: RequestListener = (_, response) =>
    void response.writeHead(307, { location: `http://${plain}/data` }).end();
  const anonymous = await listen(createTlsServer(files, open));
  const configs = [host, anonymous].map((each) => ({ host: each, ca: tls.ca }));
  const client = makeClient([...configs, ...entry(plain)] as never, new ManualClock());
  return async (registry: 'token' | 'open'): Promise<Buffer> => {
    const target = Buffer.alloc(1000);
    const origin = { registry: registry === 'token' ? host : anonymous, repository: 'app' };
    await client.readBlobInto({ digest, sizeBytes: 1000, origin }, 0, Scatter.of(target));
    return target;
  };
}

describeWith('a registry over HTTPS that leads to plain HTTP', [needs.program('openssl')], () => {
  test('is followed where the operator says that the host is asked over HTTP', async () => {
    const read = await rig((host) => [{ host, insecure: true }]);
    for (const kind of ['token', 'open'] as const)
      expect((await read(kind)).equals(bytes)).toBe(true);
  });

  test.each([
    ['without an entry', () => []],
    ['with an entry that does not say so', (host: string) => [{ host }]],
  ] as const)('is not %s of it, and the error names rule and key', async (_, entry) => {
    const read = await rig(entry);
    const rule = /`registries` that has `insecure: true`/;
    await expect(read('token')).rejects.toThrow(rule);
    await expect(read('open')).rejects.toThrow(rule);
  });
});
