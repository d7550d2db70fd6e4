import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { tempFolder } from '../../kit/temp-folder.ts';
import { as, auth, fileOf, openKeychain as open } from '../kit/keychains.ts';

test.each([
  ['https://index.docker.io/v1/', 'docker.io', 'library/app'],
  ['index.docker.io', 'docker.io', 'library/app'],
  ['docker.io', 'registry-1.docker.io', 'library/app'],
  ['registry-1.docker.io', 'docker.io', 'team/app'],
  ['https://registry.example/v2/', 'registry.example', 'app'],
  ['http://Registry.example:5000', 'registry.example:5000', 'app'],
  ['[2001:db8::1]:5000', '[2001:db8::1]:5000', 'app'],
  ['registry.example/team', 'registry.example', 'team'],
  ['registry.example/team/', 'registry.example', 'team/app'],
  ['*.example', 'registry.example', 'app'],
  ['app*.registry.example:5000', 'app-1.registry.example:5000', 'app'],
])('Keychain.get() finds what %s says for %s/%s', async (key, registry, repository) => {
  const { keychain } = open({ dockerConfigs: [fileOf({ auths: { [key]: auth('me') } })] });
  expect(await keychain.get(registry, repository, [])).toEqual(as('me'));
});

test.each([
  ['registry.example', 'registry.example:5000', 'app'],
  ['registry.example:5000', 'registry.example', 'app'],
  ['registry.example/team', 'registry.example', 'teams/app'],
  ['registry.example/team', 'registry.example', 'other/team'],
  ['*.example', 'a.b.example', 'app'],
  ['registry.example', 'registryxexample', 'app'],
  ['docker.io', 'registry.example', 'app'],
])('Keychain.get() does not give what %s says to %s/%s', async (key, registry, repository) => {
  const { keychain } = open({ dockerConfigs: [fileOf({ auths: { [key]: auth('me') } })] });
  expect(await keychain.get(registry, repository, [])).toBeUndefined();
});

test('Keychain.get() goes on to the next source when some are refused', async () => {
  const fileFor = (user: string): string => fileOf({ auths: { 'registry.example': auth(user) } });
  const { keychain } = open({
    dockerConfigs: [fileFor('first'), fileOf({ auths: {} })],
    pullSecrets: [fileFor('first'), fileFor('second')],
  });
  const get = (...refused: string[]) => keychain.get('registry.example', 'app', refused.map(as));
  expect(await get()).toEqual(as('first'));
  expect(await get('first')).toEqual(as('second'));
  expect(await get('first', 'second')).toBeUndefined();
});

test('Keychain.get() prefers the more particular entry, and the earlier file', async () => {
  const first = fileOf({
    auths: {
      '*.example': auth('any'),
      'registry.example': auth('all'),
      'registry.example/team': auth('team'),
      'registry.example/team/app': auth('app'),
      'empty.example': {},
    },
  });
  const second = fileOf({
    auths: { 'registry.example': auth('later'), 'empty.example': auth('b') },
  });
  const secret = fileOf({ auths: { 'registry.example': auth('c'), 'c.test': auth('c') } });
  const { keychain } = open({ dockerConfigs: [first, second], pullSecrets: [secret] });
  const user = async (registry: string, repository: string) =>
    ((await keychain.get(registry, repository, [])) as { username?: string } | undefined)?.username;
  expect(await user('registry.example', 'x')).toBe('all');
  expect(await user('registry.example', 'team/x')).toBe('team');
  expect(await user('registry.example', 'team/app')).toBe('app');
  expect(await user('other.example', 'team/app')).toBe('any');
  expect(await user('empty.example', 'x')).toBe('any');
  expect(await user('c.test', 'x')).toBe('c');
});

test.each([
  [{ username: 'me', password: 'secret' }, as('me')],
  [auth('me', 'a:b'), { username: 'me', password: 'a:b' }],
  [{ auth: Buffer.from('me:secret\0\0').toString('base64') }, as('me')],
  [{ ...auth('me'), identitytoken: 'refresh' }, { identityToken: 'refresh' }],
  [{ ...auth('me'), registrytoken: 'bearer', identitytoken: 'x' }, { registryToken: 'bearer' }],
])('Keychain.get() reads %j', async (entry, credentials) => {
  const { keychain } = open({ pullSecrets: [fileOf({ auths: { 'a.test': entry } })] });
  expect(await keychain.get('a.test', 'app', [])).toEqual(credentials);
  const old = fileOf({ 'a.test': entry }, '.dockercfg');
  expect(await open({ pullSecrets: [old] }).keychain.get('a.test', 'app', [])).toEqual(credentials);
});

test.each([
  ['no JSON', 'secret', 'must be JSON'],
  ['a list', '[]', 'it must be a JSON object'],
  ['auths that are a text', { auths: 'secret' }, '"auths" must be a JSON object'],
  ['a password that is a number', { auths: { 'a.test': { password: 5 } } }, 'must be a text'],
  [
    'auth without a colon',
    { auths: { 'a.test': { auth: 'c2VjcmV0' } } },
    'user:password in base64',
  ],
  ['a helper that is a path', { credsStore: '../secret' }, 'name of a credential helper'],
  ['a helper with arguments', { credHelpers: { 'a.test': 'x; secret' } }, 'name of a credential'],
])('Keychain refuses a file with %s, in one line without its content', (_name, content, rule) => {
  const file = fileOf(content);
  const line = (() => {
    try {
      open({ dockerConfigs: ['/dev/null', file].slice(1) });
      return '';
    } catch (error) {
      return String(error);
    }
  })();
  expect(line).toContain(`credentials.dockerConfigs[0] is ${JSON.stringify(file)}: `);
  expect(line).toContain(rule);
  expect(line).not.toContain('\n');
  expect(line).not.toContain('secret');
});

test('Keychain refuses what is not there', () => {
  const missing = join(tempFolder(), 'missing');
  expect(() => open({ pullSecrets: [missing] })).toThrow(
    /credentials\.pullSecrets\[0\] is ".*missing", which cannot be read: ENOENT/,
  );
});

/**
 * Swaps the content of a mounted secret as the kubelet does: a new folder, and a symbolic link that
 * moves to it at once.
 */
function mount(folder: string, content: string | undefined): void {
  const version = mkdtempSync(join(folder, '..version-'));
  if (content !== undefined) writeFileSync(join(version, '.dockerconfigjson'), content);
  symlinkSync(version, join(folder, '..data_tmp'));
  renameSync(join(folder, '..data_tmp'), join(folder, '..data'));
  rmSync(join(folder, '.dockerconfigjson'), { force: true });
  if (content !== undefined)
    symlinkSync('..data/.dockerconfigjson', join(folder, '.dockerconfigjson'));
}

test('Keychain.get() reads mounted secrets, and their replacements by the kubelet', async () => {
  const secrets = tempFolder();
  const one = join(secrets, 'team-a');
  const other = join(secrets, 'team-b');
  mkdirSync(one);
  mkdirSync(other);
  const { keychain, lines } = open({ pullSecrets: [secrets] });
  expect(await keychain.get('a.test', 'app', [])).toBeUndefined();
  mount(one, JSON.stringify({ auths: { 'a.test': auth('old') } }));
  mount(other, JSON.stringify({ auths: { 'b.test': auth('b') } }));
  expect(await keychain.get('a.test', 'app', [])).toEqual(as('old'));
  expect(await keychain.get('b.test', 'app', [])).toEqual(as('b'));
  mount(one, JSON.stringify({ auths: { 'a.test': auth('new') } }));
  expect(await keychain.get('a.test', 'app', [])).toEqual(as('new'));
  expect(lines).toEqual([]);
  // Damage changes nothing and is told once; what is gone holds no more.
  mount(one, 'secret');
  expect(await keychain.get('a.test', 'app', [])).toEqual(as('new'));
  expect(await keychain.get('a.test', 'app', [])).toEqual(as('new'));
  expect(lines.length).toBe(1);
  expect(lines[0]).not.toContain('secret');
  mount(one, undefined);
  expect(await keychain.get('a.test', 'app', [])).toBeUndefined();
  expect(await keychain.get('b.test', 'app', [])).toEqual(as('b'));
});
