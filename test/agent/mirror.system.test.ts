import { expect, test } from 'vitest';
import type { AgentCluster, ClusterInit } from '../../src/demo/agent-cluster.ts';
import { Containerd } from '../kit/containerd.ts';
import { makeCertificates } from '../kit/certificates.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { makeNetwork } from '../kit/namespaces.ts';
import { RegistryProxy } from '../kit/registry-proxy.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { makeTarImage, type TarImage } from '../kit/tar-image.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { startTokenServer } from '../kit/token-server.ts';
import {
  credentialsFile,
  filledStorage,
  hostsDirOf,
  skopeoCopy,
  startCluster,
} from './kit/mirror-rig.ts';

/** A layer that the mirror sends while it arrives, and one that it checks before sending. */
const SIZES = [9_000_000, 700_000];
const SINGLE_BYTES_MAX = 10;
const user = { username: 'reader', password: 'pass:word' };
const STALE = { mirror: { tagSeconds: 1, staleTagSeconds: 3600 } };

/** The user's credentials, as containerd and skopeo get them. */
const CLIENT = {
  ctr: ['--user', `${user.username}:${user.password}`],
  skopeo: user,
};

/**
 * Only the root can read from the registry: the other hosts lack the credentials or the
 * certificate, so that their bytes came down the tree. They know its name all the same, which
 * skopeo does not send, and with `always` they can check a client's access there.
 */
function readByRoot(
  host: string,
  access: object,
  always: object = {},
): NonNullable<ClusterInit['config']> {
  return (role) => ({
    ...STALE,
    registries: [{ host, ...always, ...(role === 'root' && access) }],
  });
}

/** Each byte once, and a few single ones by which agents learned size and rights. */
function expectOnce(bytes: Readonly<Record<string, number>>, layers: TarImage['layers']): void {
  for (const { digest, sizeBytes } of layers) {
    const extra = (bytes[digest] ?? 0) - sizeBytes;
    expect(extra, digest).toBeGreaterThanOrEqual(0);
    expect(extra, digest).toBeLessThanOrEqual(SINGLE_BYTES_MAX);
  }
}

/**
 * Pulls the image through every host of the cluster with containerd and skopeo. The registry stops
 * before the last pulls: after the first pull, through a child, or after each host has pulled once.
 * A host serves a private image only to credentials that the registry has accepted on that host:
 * passwords stay the same, tokens are new with each pull.
 */
async function pullEverywhere(
  cluster: AgentCluster,
  proxy: RegistryProxy,
  init: {
    image: TarImage;
    stopAfter: 'first' | 'all' | 'never';
    ctr?: readonly string[];
    skopeo?: { readonly username: string; readonly password: string };
  },
): Promise<void> {
  const reference = `${proxy.address}/team/app:1`;
  const hosts = [...cluster.children, ...cluster.roots];
  for (const host of hosts) {
    const containerd = await Containerd.start(hostsDirOf(host, proxy.address));
    await containerd.pull(reference, init.ctr);
    const content = await containerd.content();
    for (const { digest } of init.image.layers) expect(content, host.name).toContain(digest);
    if (init.stopAfter === 'first') await proxy.stop();
  }
  const bytes = proxy.blobBytes();
  expectOnce(bytes, init.image.layers);
  expect(proxy.direct()).toEqual([]);
  // skopeo learns at /v2/ that the registry demands credentials, which the agent knows only from
  // the registry.
  if (init.skopeo !== undefined) {
    for (const host of hosts) await skopeoCopy(host, reference, init.skopeo);
  }
  if (init.stopAfter !== 'never') await proxy.stop();
  for (const host of hosts) await skopeoCopy(host, reference, init.skopeo);
}

describeWith(
  'the registry mirror of real agents, for containerd and skopeo',
  ['docker-registry', 'containerd', 'skopeo'].map(needs.program).concat(needs.root),
  () => {
    test('brings an image to every host: once from the registry, later without it', async () => {
      const image = await makeTarImage(SIZES);
      const registry = await startDockerRegistry({ storage: await filledStorage(image) });
      const proxy = await RegistryProxy.start(registry);
      const cluster = await startCluster(proxy.address, {
        config: readByRoot(proxy.address, { insecure: true }),
      });
      await pullEverywhere(cluster, proxy, { image, stopAfter: 'all' });
    });

    describeWith(
      'on three hosts in network namespaces',
      [needs.program('ip'), needs.program('nsenter')],
      () => {
        test('brings an image to hosts that cannot reach the registry', async () => {
          const image = await makeTarImage(SIZES);
          const registry = await startDockerRegistry({ storage: await filledStorage(image) });
          const network = makeNetwork(3, 1);
          const proxy = await RegistryProxy.start(registry, { host: network.registry });
          const cluster = await startCluster(proxy.address, {
            places: network.places,
            config: readByRoot(proxy.address, { insecure: true }),
          });
          const reference = `${proxy.address}/team/app:1`;
          for (const [i, host] of [...cluster.hosts.entries()].reverse()) {
            const enter = network.places[i]?.enter;
            const containerd = await Containerd.start(hostsDirOf(host, proxy.address), {
              ...(enter && { enter }),
            });
            await containerd.pull(reference);
            const content = await containerd.content();
            for (const { digest } of image.layers) expect(content, host.name).toContain(digest);
          }
          const bytes = proxy.blobBytes();
          expectOnce(bytes, image.layers);
          expect(proxy.direct()).toEqual([]);
        });
      },
    );

    describeWith('with passwords', [needs.program('htpasswd')], () => {
      test('reads with the credentials of the root, which no other host has', async () => {
        const image = await makeTarImage(SIZES);
        const storage = await filledStorage(image);
        const proxy = await RegistryProxy.start(
          await startDockerRegistry({ storage, htpasswd: user }),
        );
        const access = { credentialsFile: credentialsFile(user) };
        const cluster = await startCluster(proxy.address, {
          config: readByRoot(proxy.address, access, { insecure: true }),
        });
        await pullEverywhere(cluster, proxy, { image, stopAfter: 'all', ...CLIENT });
      });
    });

    describeWith('with certificates', [needs.program('openssl')], () => {
      test('reads with tokens that the root obtains', async () => {
        const image = await makeTarImage(SIZES);
        const storage = await filledStorage(image);
        const { token } = await startTokenServer(makeCertificates(tempFolder()), user);
        const proxy = await RegistryProxy.start(await startDockerRegistry({ storage, token }));
        const access = { credentialsFile: credentialsFile(user) };
        const cluster = await startCluster(proxy.address, {
          config: readByRoot(proxy.address, access, { insecure: true }),
        });
        await pullEverywhere(cluster, proxy, { image, stopAfter: 'never', ...CLIENT });
      });

      test('reads over TLS, with an authority from the configuration', async () => {
        const image = await makeTarImage(SIZES);
        const registry = await startDockerRegistry({ storage: await filledStorage(image) });
        const tls = makeCertificates(tempFolder());
        const proxy = await RegistryProxy.start(registry, { tls });
        const cluster = await startCluster(proxy.address, {
          config: readByRoot(proxy.address, { caFile: tls.caFile }),
        });
        await pullEverywhere(cluster, proxy, { image, stopAfter: 'first' });
      });
    });
  },
);
