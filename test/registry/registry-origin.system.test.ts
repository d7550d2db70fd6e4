import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { makeCertificates } from '../kit/certificates.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { startClientCertFront } from '../kit/front-servers.ts';
import { sampleBytes } from '../kit/layers.ts';
import { putImage } from '../kit/registry-content.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { makeOrigin } from './kit/origins.ts';

const layer = sampleBytes(600_000, 4);
const { signal } = new AbortController();

const programs = ['docker-registry', 'htpasswd', 'openssl'].map((name) => needs.program(name));
describeWith('with a real registry', programs, () => {
  test('RegistryOrigin uses the authority and the credentials of the configuration', async () => {
    const storage = tempFolder();
    const open = await startDockerRegistry({ storage });
    const image = await putImage(`http://${open}/v2/team/app`, '1', [layer]);
    const tls = makeCertificates(tempFolder());
    const htpasswd = { username: 'reader', password: 'pass:word' };
    const host = await startDockerRegistry({ storage, tls, htpasswd });
    const credentialsFile = join(tempFolder(), 'credentials');
    writeFileSync(credentialsFile, 'reader:wrong\n');
    const origin = makeOrigin({ host, caFile: tls.caFile, credentialsFile });
    const resolve = () => origin.resolve(`docker://${host}/team/app:1`, signal);
    await expect(resolve()).rejects.toMatchObject({ code: 'refused' });
    // A file that changes is read again.
    writeFileSync(credentialsFile, 'reader:pass:word\n');
    expect((await resolve()).manifestDigest).toBe(image.digest);
  });

  test('RegistryOrigin uses pull secrets and credential helpers at a real registry', async () => {
    const storage = tempFolder();
    const open = await startDockerRegistry({ storage });
    const image = await putImage(`http://${open}/v2/team/app`, '1', [layer]);
    const htpasswd = { username: 'reader', password: 'pass:word' };
    const host = await startDockerRegistry({ storage, htpasswd });
    const auth = Buffer.from('reader:pass:word').toString('base64');
    const secret = join(tempFolder(), '.dockerconfigjson');
    writeFileSync(secret, JSON.stringify({ auths: { [host]: { auth } } }));
    const programs = tempFolder();
    const answer = JSON.stringify({ Username: 'reader', Secret: 'pass:word' });
    const helper = join(programs, 'docker-credential-test');
    writeFileSync(helper, `#!/bin/sh\necho '${answer}'\n`, { mode: 0o755 });
    const before = process.env['PATH'];
    process.env['PATH'] = `${programs}:${before}`;
    onTestFinished(() => void (process.env['PATH'] = before));
    const config = join(tempFolder(), 'config.json');
    writeFileSync(config, JSON.stringify({ credHelpers: { [host]: 'test' } }));
    for (const credentials of [
      { dockerConfigs: [], pullSecrets: [secret] },
      { dockerConfigs: [config], pullSecrets: [] },
    ]) {
      const origin = makeOrigin({ host, insecure: true }, { credentials });
      const found = await origin.resolve(`docker://${host}/team/app:1`, signal);
      expect(found.manifestDigest).toBe(image.digest);
    }
    const none = makeOrigin({ host, insecure: true });
    await expect(none.resolve(`${host}/team/app:1`, signal)).rejects.toMatchObject({
      code: 'refused',
    });
  });

  test('RegistryOrigin shows its certificate, and refuses one without its key', async () => {
    const registry = await startDockerRegistry();
    const image = await putImage(`http://${registry}/v2/team/app`, '1', [layer]);
    const tls = makeCertificates(tempFolder());
    const { caFile, certificateFile: certFile, keyFile: clientKeyFile } = tls;
    const { host } = await startClientCertFront(registry, tls);
    const origin = makeOrigin({ host, caFile, certFile, clientKeyFile });
    expect((await origin.resolve(`${host}/team/app:1`, signal)).manifestDigest).toBe(image.digest);
    const other = makeCertificates(tempFolder()).keyFile;
    expect(() => makeOrigin({ host, certFile, clientKeyFile: other })).toThrow(
      /registries\[host=.*\]\.clientKeyFile is ".*": it must hold the key/,
    );
    expect(() => makeOrigin({ host, certFile: other, clientKeyFile })).toThrow(/certFile is .*PEM/);
  });
});
