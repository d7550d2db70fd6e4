import { execFile } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { onTestFinished } from 'vitest';
import { carryOut } from '../../../src/agent/commands/containerd-files.ts';
import { planMirror } from '../../../src/agent/commands/containerd-hosts.ts';
import {
  AgentCluster,
  type ClusterHost,
  type ClusterInit,
} from '../../../src/demo/agent-cluster.ts';
import { startDockerRegistry } from '../../kit/docker-registry.ts';
import { pushLayout } from '../../kit/skopeo.ts';
import type { TarImage } from '../../kit/tar-image.ts';
import { tempFolder, type AtEnd } from '../../kit/temp-folder.ts';

const run = promisify(execFile);

/** A folder in which registries keep the image `team/app:1`. */
export async function filledStorage(image: TarImage, atEnd?: AtEnd): Promise<string> {
  const storage = tempFolder(atEnd);
  const registry = await startDockerRegistry({ storage }, atEnd);
  await pushLayout(`${image.layout}:1`, `${registry}/team/app:1`);
  return storage;
}

/** A root and two children that end with the running test. */
export async function startCluster(
  registry: string,
  init: Partial<Pick<ClusterInit, 'config' | 'places'>> = {},
): Promise<AgentCluster> {
  const shape = { roots: 1, children: 2, devices: false };
  const cluster = new AgentCluster({ dir: tempFolder(), ...shape, registry, ...init });
  onTestFinished(() => cluster.stop());
  await cluster.start();
  return cluster;
}

/** A folder with containerd's hosts.toml that makes a host's agent the mirror of the registry. */
export function hostsDirOf(host: ClusterHost, registry: string, blockImages = false): string {
  const dir = tempFolder();
  carryOut(planMirror({ dir, registry, mirror: host.mirror, blockImages }));
  return dir;
}

/**
 * Runs `skopeo copy` of an image through a host's agent, into an OCI layout; returns skopeo's
 * output.
 */
export async function skopeoCopy(
  host: ClusterHost,
  reference: string,
  user?: { readonly username: string; readonly password: string },
): Promise<string> {
  const folder = tempFolder();
  const [registry = ''] = reference.split('/');
  const file = join(folder, 'registries.conf');
  const mirror = host.mirror.replace('http://', '');
  writeFileSync(
    file,
    `[[registry]]\nlocation = "${registry}"\n` +
      `[[registry.mirror]]\nlocation = "${mirror}"\ninsecure = true\n`,
  );
  const args = ['--insecure-policy', '--registries-conf', file, 'copy'];
  if (user !== undefined) {
    // skopeo sends --src-creds to the registry alone, not to its mirrors.
    const auth = Buffer.from(`${user.username}:${user.password}`).toString('base64');
    const auths = { [registry]: { auth }, [mirror]: { auth } };
    writeFileSync(join(folder, 'auth.json'), JSON.stringify({ auths }), { mode: 0o600 });
    args.push('--authfile', join(folder, 'auth.json'));
  }
  const { stdout } = await run('skopeo', [
    ...args,
    `docker://${reference}`,
    `oci:${join(folder, 'out')}:1`,
  ]);
  return stdout;
}

/** A credentials file of the agents for a user of a registry. */
export function credentialsFile(user: { username: string; password: string }): string {
  const file = join(tempFolder(), 'credentials');
  writeFileSync(file, `${user.username}:${user.password}`, { mode: 0o600 });
  return file;
}
