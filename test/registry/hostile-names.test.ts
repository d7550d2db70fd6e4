import { expect, test } from 'vitest';
import { digestOf } from '../kit/registry-content.ts';
import { startServer } from '../kit/servers.ts';
import { makeClient } from './kit/clients.ts';

const CLIMBING = '../../../../api/v2.0/users?x=';

test.each([
  CLIMBING,
  '..',
  '1?n=2',
  '1#a',
  '1/../2',
  '%2e%2e',
  'a\\b',
  `sha256:${'AB'.repeat(32)}`,
  `md5:${'ab'.repeat(32)}`,
  'a'.repeat(129),
  '',
])('RegistryClient.manifest() sends no request for the reference %j', async (reference) => {
  const asked: (string | undefined)[] = [];
  const registry = await startServer(({ url }, response) => {
    asked.push(url);
    response.end('{}');
  });
  const client = makeClient([{ host: registry, insecure: true }]);
  const error = { code: 'invalid-reference' };
  const app = { registry, repository: 'team/app' };
  await expect(client.manifest(app, reference)).rejects.toMatchObject(error);
  const digest = digestOf(new Uint8Array(1));
  for (const repository of ['team/../../api', `app/${CLIMBING}`, 'app?x=', '']) {
    const origin = { registry, repository };
    await expect(client.manifest(origin, '1')).rejects.toMatchObject(error);
    await expect(client.blobSize(origin, digest)).rejects.toMatchObject(error);
  }
  expect(asked).toEqual([]);
});
