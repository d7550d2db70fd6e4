import { createRequire } from 'node:module';
import { expect, test } from 'vitest';
import { makeAccess } from './kit/origins.ts';

const isLoaded = (): boolean =>
  Object.keys(createRequire(import.meta.url).cache).some((file) => /[\\/]undici[\\/]/.test(file));

test('RegistryAccess loads the HTTP client when it is first needed', async () => {
  const { urls } = makeAccess({ host: '127.0.0.1:1', insecure: true });
  expect(isLoaded()).toBe(false);
  const request = { method: 'GET', url: 'http://127.0.0.1:1/', headers: {} } as const;
  const answer = urls.open(request, new AbortController().signal);
  await expect(answer).rejects.toMatchObject({ code: 'unavailable' });
  expect(isLoaded()).toBe(true);
});
