import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { makeCertificates } from '../../kit/certificates.ts';
import { Containerd } from '../../kit/containerd.ts';
import { CriClient } from '../../kit/cri-client.ts';
import { startDockerRegistry } from '../../kit/docker-registry.ts';
import { RegistryProxy } from '../../kit/registry-proxy.ts';
import { describeWith, needs } from '../../kit/requires.ts';
import { makeTarImage } from '../../kit/tar-image.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { startTokenServer } from '../../kit/token-server.ts';
import { credentialsFile, filledStorage, startCluster } from '../kit/mirror-rig.ts';

const user = { username: 'reader', password: 'pass:word' };
const BASIC = `Basic ${Buffer.from('reader:pass:word').toString('base64')}`;
const CRI = '[plugins."io.containerd.grpc.v1.cri".registry';

/** The addresses of a private registry and of the agent. */
interface Places {
  readonly registry: string;
  readonly agent: string;
}

/** A way of giving containerd credentials. */
interface Way {
  readonly name: string;
  readonly config?: (at: Places) => string;
  /** After the agent's table in hosts.toml, which is the last. */
  readonly hosts?: (at: Places) => string;
  /** Of the pull: what a kubelet, or the options of `ctr`, say. */
  readonly auth?: (at: Places) => object;
  readonly ctr?: readonly string[];
  /** Whether the agent gets them, and so the blobs come down the tree. */
  readonly isInTree: boolean;
}

const authOf = (host: string): string =>
  `${CRI}.configs."${host}".auth]\n  username = "reader"\n  password = "pass:word"\n`;

const headerOf = (host: string): string =>
  `[host."http://${host}".header]\n  authorization = "${BASIC}"\n`;

const WAYS: readonly Way[] = [
  { name: 'of a pod', auth: () => user, isInTree: true },
  {
    name: 'of a pod, for the address of the registry',
    auth: ({ registry }) => ({ ...user, server_address: `http://${registry}` }),
    isInTree: false,
  },
  {
    name: 'of the configuration, for the registry',
    config: ({ registry }) => authOf(registry),
    isInTree: false,
  },
  {
    name: 'of the configuration, for the registry and the agent',
    config: ({ registry, agent }) => authOf(registry) + authOf(agent),
    isInTree: true,
  },
  { name: 'of ctr --user', ctr: ['--user', 'reader:pass:word'], isInTree: true },
  {
    name: 'of a header for the registry',
    hosts: ({ registry }) => `[host."http://${registry}"]\n${headerOf(registry)}`,
    isInTree: false,
  },
  {
    name: 'of headers for the registry and the agent',
    hosts: ({ registry, agent }) =>
      `${headerOf(agent)}[host."http://${registry}"]\n${headerOf(registry)}`,
    isInTree: true,
  },
];

/** How containerd shows what it has been given, and from where it then gets the blobs. */
interface Seen {
  readonly name: string;
  readonly isShown: boolean;
  readonly isInTree: boolean;
}

const NEEDS = [
  needs.root,
  ...['containerd', 'docker-registry', 'skopeo', 'htpasswd', 'openssl'].map(needs.program),
];

describeWith('credentials of containerd, with the agent as its mirror', NEEDS, () => {
  /** What a pull of each way shows to an agent that has no credentials of its own. */
  async function pullBy(ways: readonly Way[], proxy: RegistryProxy): Promise<readonly Seen[]> {
    const registry = proxy.address;
    const cluster = await startCluster(registry, {
      config: (role) => ({
        registries: [
          {
            ...{ host: registry, insecure: true },
            ...(role === 'root' && { credentialsFile: credentialsFile(user) }),
          },
        ],
      }),
    });
    const agent = await RegistryProxy.start(new URL(cluster.children[0]?.mirror ?? '').host);
    const results: Seen[] = [];
    for (const { name, ...way } of ways) {
      for (const { requests } of [proxy, agent]) requests.length = 0;
      await pull(way, { registry, agent: agent.address });
      const blobs = proxy.direct().filter(({ path }) => path.includes('/blobs/'));
      const isShown = agent.requests.some(({ authorization }) => authorization !== undefined);
      results.push({ name, isShown, isInTree: blobs.length === 0 });
    }
    return results;
  }

  async function pull(way: Omit<Way, 'name'>, at: Places): Promise<void> {
    const { registry, agent } = at;
    const dir = tempFolder();
    mkdirSync(join(dir, registry));
    writeFileSync(
      join(dir, registry, 'hosts.toml'),
      `server = "http://${registry}"\n[host."http://${agent}"]\n${way.hosts?.(at) ?? ''}`,
    );
    const containerd = await Containerd.start(dir, {
      sandboxImage: 'none',
      registry: `${CRI}]\n  config_path = "${dir}"\n${way.config?.(at) ?? ''}`,
    });
    const reference = `${registry}/team/app:1`;
    if (way.ctr !== undefined) {
      await containerd.pull(reference, way.ctr);
      return;
    }
    const cri = new CriClient(containerd.socket);
    onTestFinished(() => cri.close());
    await cri.pull(reference, way.auth?.(at));
  }

  const expected = (ways: readonly Way[]): readonly Seen[] =>
    ways.map(({ name, isInTree }) => ({ name, isShown: isInTree, isInTree }));

  it('reach the agent, or do not', async () => {
    const storage = await filledStorage(await makeTarImage([300_000]));
    const proxy = await RegistryProxy.start(await startDockerRegistry({ storage, htpasswd: user }));
    expect(await pullBy(WAYS, proxy)).toEqual(expected(WAYS));
  });

  it('get tokens too', async () => {
    const storage = await filledStorage(await makeTarImage([300_000]));
    const { token } = await startTokenServer(makeCertificates(tempFolder()), user);
    const proxy = await RegistryProxy.start(await startDockerRegistry({ storage, token }));
    const ways = WAYS.filter(({ isInTree, hosts }) => isInTree && hosts === undefined);
    expect(await pullBy(ways, proxy)).toEqual(expected(ways));
  });
});
