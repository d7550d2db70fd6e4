import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { ManualClock } from '../../kit/manual-clock.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { as, auth, fileOf, openKeychain as open } from '../kit/keychains.ts';

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
    const clock = new ManualClock({ sleeps: 'pass' });
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
