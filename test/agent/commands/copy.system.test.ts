import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { expect, onTestFinished, test } from 'vitest';
import { makeCertificates } from '../../kit/certificates.ts';
import { startDockerRegistry } from '../../kit/docker-registry.ts';
import { FakeRegistry } from '../../kit/fake-registry.ts';
import { describeWith, needs } from '../../kit/requires.ts';
import { makeTarImage } from '../../kit/tar-image.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { startTokenServer } from '../../kit/token-server.ts';

const BIN = new URL('../../../bin/xylem.js', import.meta.url).pathname;
const user = { username: 'writer', password: 'pass:word' };

/** Starts `xylem`, in a home without credentials. */
function start(args: readonly string[], variables: Readonly<Record<string, string>> = {}) {
  const env = { PATH: process.env['PATH'] ?? '', HOME: '/nonexistent', ...variables };
  const child = spawn(process.execPath, [BIN, ...args], { env, cwd: '/' });
  onTestFinished(() => void child.kill('SIGKILL'));
  const [out, err] = [text(child.stdout), text(child.stderr)];
  const ended = once(child, 'close').then(async ([code]) => {
    return { code: Number(code), out: await out, err: await err };
  });
  return { child, ended };
}

const xylem = (...args: readonly string[]) => start(args).ended;

/** A Docker config file with the user's credentials for the registry. */
function loginTo(registry: string): string {
  const file = join(tempFolder(), 'config.json');
  const auth = Buffer.from(`${user.username}:${user.password}`).toString('base64');
  writeFileSync(file, JSON.stringify({ auths: { [registry]: { auth } } }));
  return file;
}

const PROGRAMS = ['docker-registry', 'htpasswd', 'openssl'].map(needs.program);

describeWith('xylem copy and push', PROGRAMS, () => {
  test('push with a password, and say what to do without one', async () => {
    const registry = await startDockerRegistry({ htpasswd: user });
    const { layout, digest } = await makeTarImage([1000, 2000]);
    const names = [`oci:${layout}:1`, `docker://${registry}/team/app:1`];
    const refused = await xylem('push', '--insecure', '--json', ...names);
    expect(refused.code).toBe(1);
    expect(refused.err).toMatch(/wants credentials.*docker login.*--credentials/);
    expect(JSON.parse(refused.out)).toMatchObject({ code: 'unauthorized' });
    const credentials = ['--insecure', '--credentials', loginTo(registry)];
    const pushed = await xylem('push', ...credentials, '--json', ...names);
    expect(pushed).toMatchObject({ code: 0, err: '' });
    expect(JSON.parse(pushed.out)).toMatchObject({ image: names[1], digest, writtenCount: 3 });
    const again = await xylem('push', ...credentials, ...names);
    expect(again.out).toMatch(/^docker:.* is sha256:.*\n0 of 3 blobs copied .*was there/);
  });

  test('push with tokens, and mount from another repository', async () => {
    const issuer = await startTokenServer(makeCertificates(tempFolder()), user);
    const registry = await startDockerRegistry({ token: issuer.token });
    const { layout } = await makeTarImage([1000]);
    const flags = ['--insecure', '--json', '--credentials', loginTo(registry)];
    const [from, to] = [`docker://${registry}/team/app:1`, `docker://${registry}/other:1`];
    expect((await xylem('push', ...flags, `oci:${layout}:1`, from)).code).toBe(0);
    const copied = await xylem('copy', ...flags, from, to);
    expect(JSON.parse(copied.out)).toMatchObject({ blobCount: 2, writtenCount: 0 });
    expect(issuer.asked.some((each) => /other:.* repository:team\/app:/.test(each))).toBe(true);
  });

  test('trust the authority of --ca, and take registries of a configuration', async () => {
    const tls = makeCertificates(tempFolder());
    const registry = await startDockerRegistry({ tls });
    const { layout } = await makeTarImage([1000]);
    const names = [`oci:${layout}:1`, `docker://${registry}/app:1`];
    const untrusted = await xylem('push', ...names);
    expect(untrusted.err).toMatch(
      /no answer: .*; --ca names a file with the authority to trust\n$/,
    );
    expect((await xylem('push', '--ca', tls.caFile, ...names)).code).toBe(0);
    const config = join(tempFolder(), 'agent.yaml');
    const entry = `registries:\n  - {host: '${registry}', caFile: ${tls.caFile}}\n`;
    writeFileSync(config, `role: root\n${entry}`);
    const again = await xylem('push', '--config', config, ...names);
    expect(again).toMatchObject({ code: 0, err: '' });
  });

  test.each([
    [['copy', 'app:1', 'oci:/tmp/x:1'], /no place for an image: write docker:/],
    [['copy', 'oci:/tmp/x:1', 'docker-archive:'], /docker-archive:FILE/],
    [['push', 'oci:/tmp/x:1', 'oci:/tmp/y:1'], /must be docker:/],
    [['copy', '--platform', 'arm', 'oci:/tmp/x:1', 'oci:/tmp/y:1'], /OS\/ARCH/],
    [['copy', '--referrers', 'oci:/tmp/x:1', 'docker-archive:/tmp/y'], /no place for referrers/],
    [['copy', 'oci:/nonexistent:1', 'oci:/tmp/y:1'], /no image with the tag 1/],
    [
      ['copy', '--credentials', '/nonexistent', 'docker://127.0.0.1:1/a:1', 'oci:/tmp/y:1'],
      /^xylem: --credentials is "\/nonexistent", which cannot be read: ENOENT/,
    ],
    [
      ['copy', '--ca', '/nonexistent', 'docker://127.0.0.1:1/a:1', 'oci:/tmp/y:1'],
      /^xylem: --ca is "\/nonexistent", which cannot be read: ENOENT/,
    ],
  ])('refuse %j with what is possible', async (args, message) => {
    const { code, err } = await xylem(...args);
    expect([code, err.trim().split('\n').length]).toEqual([1, 1]);
    expect(err).toMatch(message);
  });

  test('say that a registry speaks plain HTTP, and how to ask it so', async () => {
    const registry = new FakeRegistry();
    await registry.start();
    onTestFinished(() => registry.stop());
    const from = `docker://${registry.address}/app:1`;
    const { code, err } = await xylem('copy', from, `oci:${join(tempFolder(), 'x')}:1`);
    expect(code).toBe(1);
    const why = `${registry.address} answers without TLS; --insecure asks over plain HTTP`;
    const url = `https://${registry.address}/v2/app/manifests/1`;
    expect(err).toBe(`xylem: GET ${url}: no answer: ${why}\n`);
  });

  test('speak of the file of docker login by that name', async () => {
    const home = tempFolder();
    writeFileSync(join(home, 'config.json'), '{"auths": ');
    const args = ['copy', 'docker://127.0.0.1:1/a:1', `oci:${join(tempFolder(), 'x')}:1`];
    const { code, err } = await start(args, { DOCKER_CONFIG: home }).ended;
    expect(code).toBe(1);
    expect(err).toMatch(/^xylem: the file of `docker login` is "\/.*": it must be JSON/);
  });

  test('say that an image is not there', async () => {
    const registry = await startDockerRegistry();
    const to = `oci:${join(tempFolder(), 'x')}:1`;
    const { code, err } = await xylem('copy', '--insecure', `docker://${registry}/app:1`, to);
    expect(code).toBe(1);
    expect(err).toMatch(/status 404.*check the name and the tag/);
  });

  test.each(['SIGINT', 'SIGTERM'] as const)('leave no partial file after %s', async (signal) => {
    const registry = new FakeRegistry();
    await registry.start();
    onTestFinished(() => registry.stop());
    const image = await makeTarImage([3_000_000]);
    registry.addImage(image);
    const layer = image.layers[0]?.digest ?? '';
    let onAsked = (): void => {};
    // The layer never comes.
    registry.behaviours.set('', ({ url = '' }) => {
      if (!url.includes(layer)) return false;
      onAsked();
      return true;
    });
    const folder = tempFolder();
    const from = `docker://${registry.address}/app:1`;
    for (const to of [`docker-archive:${join(folder, 'app.tar')}`, `oci:${join(folder, 'x')}:1`]) {
      const { promise: asked, resolve } = Promise.withResolvers<void>();
      onAsked = resolve;
      const { child, ended } = start(['copy', '--insecure', from, to]);
      await asked;
      child.kill(signal);
      const { code, err } = await ended;
      expect(code).toBe(signal === 'SIGINT' ? 130 : 143);
      expect(err).toContain('interrupted');
    }
    const names = readdirSync(folder, { recursive: true, encoding: 'utf8' });
    expect(names.filter((name) => /part|\.tar|index/.test(name))).toEqual([]);
  });

  describeWith('on a full disk', [needs.root, needs.program('mount')], () => {
    test('say so, and leave no partial file', async () => {
      const { layout } = await makeTarImage([3_000_000]);
      const root = tempFolder();
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', root]);
      try {
        for (const to of [`oci:${root}:1`, `docker-archive:${root}/app.tar`]) {
          const { code, err } = await xylem('copy', `oci:${layout}:1`, to);
          expect(code).toBe(1);
          expect(err).toContain('the disk is full; free some space');
        }
        const names = readdirSync(root, { recursive: true, encoding: 'utf8' });
        expect(names.filter((name) => /part|\.tar/.test(name))).toEqual([]);
      } finally {
        execFileSync('umount', [root]);
      }
    });
  });
});
