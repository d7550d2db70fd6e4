import { chmodSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, onTestFinished } from 'vitest';
import { askAgent } from '../../../src/agent/admin/admin-client.ts';
import type { Answer, Given } from '../../../src/agent/admin/api.ts';
import { AgentCluster, type ClusterHost } from '../../../src/demo/agent-cluster.ts';
import type { Digest } from '../../../src/image/digest.ts';
import { defined } from '../../../src/util/assert.ts';
import { pushLayout } from '../../kit/skopeo.ts';
import { makeTarImage } from '../../kit/tar-image.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

/** Type of a block image among the referrers of its original. */
export const ARTIFACT_TYPE = 'application/vnd.containerd.overlaybd.native.v1+json';

/** A user that may write to a registry. */
export const user = { username: 'writer', password: 'pass:word' };

/** An image as the admin endpoint tells it. */
export type Image = Answer<'accelerate'>;

/** A folder for conversions that any user may pass through. */
export function workFolder(): string {
  const parent = tempFolder();
  chmodSync(parent, 0o755);
  return join(parent, 'work');
}

interface Rig {
  readonly registry: string;
  /** As the registry's entry of the root's configuration has it. */
  readonly access?: object;
  readonly acceleration?: object;
  readonly children?: number;
}

/** A root that accelerates, and perhaps children. */
export async function startRoot({ registry, access, acceleration, children = 0 }: Rig) {
  const workDir = workFolder();
  const cluster = new AgentCluster({
    ...{ dir: tempFolder(), roots: 1, children, devices: false, registry },
    config: (role) =>
      role !== 'root'
        ? {}
        : {
            mirror: { tagSeconds: 0 },
            registries: [{ host: registry, insecure: true, ...access }],
            acceleration: { enabled: true, workDir, watchSeconds: 10, ...acceleration },
          },
  });
  onTestFinished(() => cluster.stop());
  await cluster.start();
  const [root] = cluster.roots;
  return { cluster, root: defined(root, 'a root'), workDir };
}

/** Puts an image with these layers into a registry, as `team/app:1`; its digest. */
export async function push(registry: string, sizes: readonly number[], login?: typeof user) {
  const image = await makeTarImage(sizes);
  await pushLayout(`${image.layout}:1`, `${registry}/team/app:1`, login);
  return image;
}

/** Has the root accelerate an image, or stop that. */
export function set(root: ClusterHost, given: Given<'accelerate'>): Promise<Image> {
  return askAgent({ admin: root.process.socket }, 'accelerate', given);
}

/** What the root says of an image. */
async function get(root: ClusterHost, image: string): Promise<Image | undefined> {
  const { images } = await askAgent({ admin: root.process.socket }, 'images', { image });
  return images[0];
}

/** Asks until it is so. */
export async function until(
  root: ClusterHost,
  image: string,
  isSo: (found: Image | undefined) => boolean,
): Promise<Image | undefined> {
  for (;;) {
    const found = await get(root, image);
    if (isSo(found)) return found;
    await sleep(100);
  }
}

/** Waits until the image is Ready, and expects that. */
export async function ready(root: ClusterHost, image: string): Promise<Image> {
  const found = await until(root, image, (each) => each?.state !== 'Preparing');
  expect(found).toMatchObject({ state: 'Ready' });
  return defined(found, 'the image is there');
}

/** The list of referrers that a tag holds, as it is there. */
export async function referrersOf(registry: string, digest: Digest): Promise<readonly unknown[]> {
  const url = `http://${registry}/v2/team/app/manifests/${digest.replace(':', '-')}`;
  const headers = { accept: 'application/vnd.oci.image.index.v1+json' };
  const { manifests } = (await (await fetch(url, { headers })).json()) as { manifests: unknown[] };
  return manifests;
}

/** The tags of `team/app`. */
export async function tagsOf(registry: string): Promise<readonly string[]> {
  const answer = await fetch(`http://${registry}/v2/team/app/tags/list`);
  return ((await answer.json()) as { tags: string[] }).tags;
}

/** What a tag or a digest of `team/app` stands for. */
export async function digestAt(registry: string, tag: string): Promise<string | null> {
  const url = `http://${registry}/v2/team/app/manifests/${tag}`;
  const headers = { accept: 'application/vnd.oci.image.manifest.v1+json' };
  return (await fetch(url, { headers })).headers.get('docker-content-digest');
}

/** What a host's mirror gives for a tag or a digest. */
export async function manifestAt(
  host: ClusterHost,
  registry: string,
  reference: string,
  takesBlocks: boolean,
  method = 'GET',
) {
  const headers = {
    accept: 'application/vnd.oci.image.manifest.v1+json',
    ...(takesBlocks && { 'xylem-accept-block-images': 'yes' }),
  };
  const url = `${host.mirror}/v2/team/app/manifests/${reference}?ns=${registry}`;
  const { headers: told } = await fetch(url, { method, headers });
  return {
    digest: told.get('docker-content-digest'),
    vary: told.get('vary'),
    length: told.get('content-length'),
    type: told.get('content-type'),
  };
}

/** What the root keeps in registries. */
export async function keptBy(root: ClusterHost): Promise<Answer<'images'>['kept']> {
  return (await askAgent({ admin: root.process.socket }, 'images')).kept;
}
