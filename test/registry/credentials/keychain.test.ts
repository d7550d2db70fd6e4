import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import {
  createReadStream,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { Keychain } from '../../../src/registry/credentials/keychain.ts';
import type { Logger } from '../../../src/runtime/logger.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { FakeClock } from '../../kit/fake-clock.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

type Init = ConstructorParameters<typeof Keychain>[1];

/** A keychain whose log lines are kept. */
function open(init: Partial<Init>, clock: FakeClock | SystemClock = new SystemClock()) {
  const lines: string[] = [];
  const note = (fields: object, message: string): void =>
    void lines.push(`${message} ${JSON.stringify(fields)}`);
  const logger: Logger = { debug: note, info: note, warn: note, error: note, child: () => logger };
  const keychain = new Keychain({ clock, logger }, { dockerConfigs: [], pullSecrets: [], ...init });
  onTestFinished(() => keychain.close());
  return { keychain, lines };
}

function fileOf(content: unknown, name = 'config.json'): string {
  const file = join(tempFolder(), name);
  writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content));
  return file;
}

function auth(user: string, password = 'secret'): object {
  return { auth: Buffer.from(`${user}:${password}`).toString('base64') };
}

const as = (username: string) => ({ username, password: 'secret' });

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

/** Swaps the content of a mounted secret as the kubelet does: a new folder, and a symbolic link that moves to it at once. */
function mount(folder: string, content: string | undefined): void {
  const version = mkdtempSync(join(folder, '..version-'));
  if (content !== undefined) writeFileSync(join(version, '.dockerconfigjson'), content);
  symlinkSync(version, join(folder, '..data_tmp'));
  renameSync(join(folder, '..data_tmp'), join(folder, '..data'));
  rmSync(join(folder, '.dockerconfigjson'), { force: true });
  if (content !== undefined)
    symlinkSync('..data/.dockerconfigjson', join(folder, '.dockerconfigjson'));
}

test('Keychain.get() reads directories of mounted secrets, and what the kubelet has put there since', async () => {
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

/** Puts `docker-credential-test` on the PATH of this process until the test ends. */
function installHelper(script: string): void {
  const folder = tempFolder();
  writeFileSync(join(folder, 'docker-credential-test'), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  const before = process.env['PATH'];
  process.env['PATH'] = `${folder}:${before}`;
  onTestFinished(() => void (process.env['PATH'] = before));
}

const HELPS = {
  auths: { 'a.test': auth('written') },
  credHelpers: { 'a.test': 'test', 'docker.io': 'test' },
};

test('Keychain.get() asks the helper, by the name that Docker calls the registry', async () => {
  installHelper('read server; printf \'{"Username":"%s %s","Secret":"secret"}\' "$1" "$server"');
  const { keychain } = open({ dockerConfigs: [fileOf(HELPS)] });
  expect(await keychain.get('a.test', 'app', [])).toEqual(as('get a.test'));
  expect(await keychain.get('docker.io', 'library/app', [])).toEqual(
    as('get https://index.docker.io/v1/'),
  );
  const store = open({ dockerConfigs: [fileOf({ credsStore: 'test' })] });
  expect(await store.keychain.get('b.test:5000', 'app', [])).toEqual(as('get b.test:5000'));
});

test('Keychain.get() takes an identity token from a helper', async () => {
  installHelper('echo \'{"Username":"<token>","Secret":"refresh"}\'');
  const { keychain } = open({ dockerConfigs: [fileOf(HELPS)] });
  expect(await keychain.get('a.test', 'app', [])).toEqual({ identityToken: 'refresh' });
});

test('Keychain.get() runs no helper that a pull secret names', async () => {
  installHelper('echo \'{"Username":"helper","Secret":"secret"}\'');
  const { keychain } = open({ pullSecrets: [fileOf(HELPS)] });
  expect(await keychain.get('a.test', 'app', [])).toEqual(as('written'));
});

test.each([
  ['knows nothing', 'echo "credentials not found in native keychain"; exit 1', undefined],
  ['fails', 'echo secret; echo secret >&2; exit 3', 'status 3'],
  ['prints no JSON', 'echo secret', 'not JSON'],
  ['prints no secret', 'echo \'{"Username":"secret"}\'', 'no Username and Secret'],
  [
    'prints without end',
    'while :; do echo secretsecretsecretsecret; done',
    'more than 65536 bytes',
  ],
  ['dies', 'kill -9 $$', 'SIGKILL'],
])('Keychain.get() goes on to what the file says when a helper %s', async (_name, script, why) => {
  installHelper(script);
  const { keychain, lines } = open({ dockerConfigs: [fileOf(HELPS)] });
  expect(await keychain.get('a.test', 'app', [])).toEqual(as('written'));
  expect(lines.length).toBe(why === undefined ? 0 : 1);
  if (why !== undefined) expect(lines[0]).toContain(why);
  expect(lines.join('')).not.toContain('secret');
});

test('Keychain.get() goes on when the helper is not installed', async () => {
  const { keychain, lines } = open({
    dockerConfigs: [fileOf({ ...HELPS, credsStore: 'missing' })],
  });
  expect(await keychain.get('c.test', 'app', [])).toBeUndefined();
  expect(lines[0]).toContain('docker-credential-missing ENOENT');
});

test.each(['late', 'close'] as const)(
  'Keychain.get() kills a helper, and what it started, when it is %s',
  async (when) => {
    const pipe = join(tempFolder(), 'pipe');
    execFileSync('mkfifo', [pipe]);
    installHelper(`exec 3> ${pipe}; sleep 1000 & echo started >&3; sleep 1000`);
    const clock = new FakeClock();
    const { keychain, lines } = open({ dockerConfigs: [fileOf(HELPS)] }, clock);
    const both = [keychain.get('a.test', 'app', []), keychain.get('a.test', 'other', [])];
    const started = createReadStream(pipe);
    await once(started, 'data');
    if (when === 'late') clock.advance(5_000);
    else keychain.close();
    expect(await Promise.all(both)).toEqual([as('written'), as('written')]);
    expect(lines.length).toBe(1);
    expect(lines[0]).toContain(when === 'late' ? 'no answer in 5000 ms' : 'the agent stops');
    // The pipe ends with the last process that holds it.
    await once(started, 'end');
  },
);
