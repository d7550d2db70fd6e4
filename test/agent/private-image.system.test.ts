import { writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { AgentCluster } from '../../src/demo/agent-cluster.ts';
import { makeCertificates } from '../kit/certificates.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { sampleBytes } from '../kit/layers.ts';
import { digestOf, putImage } from '../kit/registry-content.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { startTokenServer } from '../kit/token-server.ts';
import { ask } from './kit/local-client.ts';

const user = { username: 'reader', password: 'pass:word' };
const basic = `Basic ${Buffer.from('reader:pass:word').toString('base64')}`;
const layer = sampleBytes(700_000, 11);
const digest = digestOf(layer);
const RANGE = 'bytes=100-300';

describeWith(
  'a private image on the local endpoint',
  [needs.program('docker-registry'), needs.program('htpasswd'), needs.program('openssl')],
  () => {
    let dir: string;
    let cluster: AgentCluster | undefined;
    beforeEach(async () => {
      dir = await mkdtemp(join(tmpdir(), 'xylem-test-'));
    });
    afterEach(async () => {
      await cluster?.stop();
      await rm(dir, { recursive: true, force: true });
    });

    async function filledStorage(): Promise<string> {
      const storage = tempFolder();
      const address = await startDockerRegistry({ storage });
      await putImage(`http://${address}/v2/team/app`, '1', [layer]);
      return storage;
    }

    /** A root and a child that have credentials of their own, and so every block. */
    async function startCluster(registry: string): Promise<AgentCluster> {
      const credentialsFile = join(dir, 'credentials');
      writeFileSync(credentialsFile, `${user.username}:${user.password}\n`, { mode: 0o600 });
      cluster = new AgentCluster({
        dir,
        roots: 1,
        children: 1,
        registry,
        devices: false,
        config: () => ({ registries: [{ host: registry, insecure: true, credentialsFile }] }),
      });
      await cluster.start();
      return cluster;
    }

    /**
     * A client with access reads the blob from each host; other clients then do not get it, though
     * the host has it.
     */
    async function expectPrivate(
      registry: string,
      right: string,
      wrong: readonly (string | undefined)[],
      challenge: RegExp,
    ): Promise<void> {
      const { hosts } = await startCluster(registry);
      const path = `/dadip2p/http://${registry}/v2/team/app/blobs/${digest}`;
      const read = (local: string, authorization: string | undefined) =>
        ask(local, path, { headers: { range: RANGE, ...(authorization && { authorization }) } });
      for (const { local, name } of hosts) {
        for (let i = 0; i < 2; i++) {
          const answer = await read(local, right);
          expect([name, answer.status]).toEqual([name, 206]);
          expect(answer.body.equals(layer.subarray(100, 301))).toBe(true);
        }
        for (const authorization of wrong) {
          const refused = await read(local, authorization);
          expect([name, refused.status]).toEqual([name, 401]);
          expect(refused.headers['www-authenticate']).toMatch(challenge);
          expect(refused.headers['content-range']).toBeUndefined();
        }
        expect((await read(local, right)).status).toBe(206);
      }
    }

    it('behind passwords is refused without a password, or with a wrong one', async () => {
      const registry = await startDockerRegistry({
        storage: await filledStorage(),
        htpasswd: user,
      });
      const guess = `Basic ${Buffer.from('reader:guess').toString('base64')}`;
      await expectPrivate(registry, basic, [undefined, guess], /^Basic realm=/);
    });

    it('behind tokens is refused without a token, or with a wrong one', async () => {
      const { token } = await startTokenServer(makeCertificates(tempFolder()), user);
      const registry = await startDockerRegistry({ storage: await filledStorage(), token });
      const fetchToken = async (repository: string): Promise<string> => {
        const url = `${token.realm}?service=tests&scope=repository:${repository}:pull`;
        const answer = await fetch(url, { headers: { authorization: basic } });
        return `Bearer ${((await answer.json()) as { token: string }).token}`;
      };
      const right = await fetchToken('team/app');
      const other = await fetchToken('team/other');
      const wrong = [undefined, 'Bearer none', other];
      await expectPrivate(registry, right, wrong, /^Bearer realm=.*team\/app:pull/);
    });

    it('has tags that nobody without the right can tell from none', async () => {
      const registry = await startDockerRegistry({
        storage: await filledStorage(),
        htpasswd: user,
      });
      const { hosts } = await startCluster(registry);
      const answerTo = (mirror: string, tag: string, headers: Record<string, string>) =>
        ask(mirror, `/v2/team/app/manifests/${tag}?ns=${registry}`, { headers });
      for (const { mirror, name } of hosts) {
        expect((await answerTo(mirror, '1', { authorization: basic })).status).toBe(200);
        expect((await answerTo(mirror, 'none', { authorization: basic })).status).toBe(404);
        const seen = [];
        for (const tag of ['1', 'none']) {
          const { status, headers, body } = await answerTo(mirror, tag, {});
          seen.push([status, headers['www-authenticate'], body.toString()]);
        }
        expect(seen[1], name).toEqual(seen[0]);
        expect(seen[0]?.[0]).toBe(401);
      }
    });
  },
);
