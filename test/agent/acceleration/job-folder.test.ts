import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { closedAbove, JobFolder } from '../../../src/agent/acceleration/job-folder.ts';
import { loadConfig } from '../../../src/agent/config/config.ts';
import { Keychain } from '../../../src/registry/credentials/keychain.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

const HOST = 'registry.example:5000';

test('a job folder holds what one registry needs, for its user alone', async () => {
  const parent = tempFolder();
  const caFile = join(parent, 'ca.pem');
  writeFileSync(caFile, 'an authority', { mode: 0o644 });
  const credentials = [
    { username: 'reader', password: 'pass:word' },
    { identityToken: 'refresh' },
    { registryToken: 'token' },
  ];
  const registry = { host: HOST, insecure: false, caFile, mirrors: ['https://mirror.example'] };
  const access = { registry, defaultRegistries: false, credentials };
  const folder = await JobFolder.create(parent, access, undefined);
  expect(statSync(folder.path).mode & 0o777).toBe(0o700);
  for (const name of readdirSync(folder.path)) {
    expect(statSync(join(folder.path, name)).mode & 0o777, name).toBe(0o600);
  }
  const config = loadConfig({ file: folder.configFile });
  expect(config).toMatchObject({ role: 'root', defaultRegistries: false });
  const [entry] = config.registries;
  expect(entry).toMatchObject({ host: HOST, insecure: false, mirrors: [] });
  expect(readFileSync(entry?.caFile ?? '', 'utf8')).toBe('an authority');
  expect(entry?.caFile?.startsWith(folder.path)).toBe(true);
  const parts = { clock: new SystemClock(), logger: silentLogger };
  const keychain = new Keychain(parts, config.credentials);
  for (const [i, each] of credentials.entries()) {
    expect(await keychain.get(HOST, 'team/app', credentials.slice(0, i))).toEqual(each);
  }
  expect(await keychain.get(HOST, 'team/app', credentials)).toBeUndefined();
  expect(await keychain.get('other.example', 'team/app', [])).toBeUndefined();
  await folder.remove();
  expect(readdirSync(parent)).toEqual(['ca.pem']);
});

test('a job folder that cannot be filled is removed', async () => {
  const parent = tempFolder();
  const registry = { host: HOST, insecure: false, mirrors: [], caFile: join(parent, 'none.pem') };
  const access = { registry, defaultRegistries: true, credentials: [] };
  await expect(JobFolder.create(parent, access, undefined)).rejects.toMatchObject({ code: 'file' });
  expect(readdirSync(parent)).toEqual([]);
});

test('a folder that others may not pass through is found, wherever above', () => {
  const top = tempFolder();
  const deep = join(top, 'a', 'b');
  mkdirSync(deep, { recursive: true });
  chmodSync(top, 0o700);
  return Promise.all([
    expect(closedAbove(join(deep, 'work'))).resolves.toBe(top),
    expect(closedAbove('/usr/share/work')).resolves.toBeUndefined(),
  ]);
});
