import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AgentCluster } from '../../../src/demo/agent-cluster.ts';
import { makeCertificates } from '../../kit/certificates.ts';
import { startDockerRegistry } from '../../kit/docker-registry.ts';
import { RegistryProxy } from '../../kit/registry-proxy.ts';
import { needs } from '../../kit/requires.ts';
import { makeTarImage } from '../../kit/tar-image.ts';
import { tempFolder, type AtEnd } from '../../kit/temp-folder.ts';
import { HEADER, PATH, type Layout, type Site } from './containerd-layouts.ts';
import { filledStorage } from './mirror-rig.ts';

/** Nobody listens there. */
export const AWAY = 'http://127.0.0.1:9';

/** A name that containerd does not take for this host, which it would ask by http. */
const NAME = 'registry.test';

/** What a test with `sharedRegistries()` needs. */
export const LAYOUT_NEEDS = [
  needs.root,
  ...['containerd', 'docker-registry', 'skopeo', 'openssl', 'unshare'].map(needs.program),
];

/** A registry over TLS with the image `team/app:1`, and the agent of a root that can read it. */
export interface NamedRegistry extends Site {
  readonly proxy: RegistryProxy;
  /** The agent's mirror. */
  readonly mirror: string;
  /** Runs a program where the registry's name is known. */
  readonly enter: readonly string[];
}

/** One registry and agent for all tests that want the same; `atEnd` ends them. */
export function sharedRegistries(atEnd: AtEnd): (wants: Layout['wants']) => Promise<NamedRegistry> {
  const started = new Map<Layout['wants'], Promise<NamedRegistry>>();
  return (wants) => {
    const starting = started.get(wants) ?? startNamedRegistry(wants, atEnd);
    started.set(wants, starting);
    return starting;
  };
}

async function startNamedRegistry(wants: Layout['wants'], atEnd: AtEnd): Promise<NamedRegistry> {
  const folder = tempFolder(atEnd);
  writeFileSync(join(folder, 'hosts'), `127.0.0.1 localhost ${NAME}\n`);
  const script = `mount --bind ${folder}/hosts /etc/hosts && exec "$@"`;
  const enter = ['unshare', '--mount', 'sh', '-c', script, 'sh'];
  const tls = makeCertificates(folder, NAME);
  const image = await makeTarImage([300_000], atEnd);
  const target = await startDockerRegistry({ storage: await filledStorage(image, atEnd) }, atEnd);
  const proxy = await RegistryProxy.start(target, {
    ...{ tls, atEnd },
    wantsCertificate: wants === 'certificate',
  });
  const registry = proxy.address.replace('127.0.0.1', NAME);
  if (wants === 'path') proxy.rewrite = (url) => url.replace(PATH, '/v2');
  proxy.misbehave = ({ headers, url = '' }, response) => {
    const isWrong =
      (wants === 'header' && headers[HEADER] !== 'a') ||
      (wants === 'path' && !url.startsWith(PATH));
    if (isWrong) response.writeHead(403).end();
    return isWrong;
  };
  const certificate = { certFile: tls.certificateFile, clientKeyFile: tls.keyFile };
  const access = { caFile: tls.caFile, ...(wants === 'certificate' && certificate) };
  const cluster = new AgentCluster({
    ...{ dir: tempFolder(atEnd), roots: 1, children: 0, devices: false, registry },
    places: [{ address: '127.0.0.1', enter }],
    config: () => ({ registries: [{ host: registry, ...access }] }),
  });
  atEnd(() => cluster.stop());
  await cluster.start();
  return { proxy, registry, tls, enter, mirror: cluster.roots[0]?.mirror ?? '' };
}
