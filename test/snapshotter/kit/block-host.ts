import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { beforeAll, expect } from 'vitest';
import {
  blobPath,
  prepareLayout,
  putBlob,
  readTag,
  tagManifest,
} from '../../../src/convert/oci-layout.ts';
import { digestHex, type Digest } from '../../../src/image/digest.ts';
import {
  ACCELERATION_ANNOTATION,
  CONFIG_MEDIA_TYPE,
  LAYER_MEDIA_TYPE,
  MANIFEST_MEDIA_TYPES,
  type Manifest,
  OVERLAYBD_ANNOTATION,
} from '../../../src/image/manifest.ts';
import { defined } from '../../../src/util/assert.ts';
import { NO_TRACES, tracesOf } from '../../device/kit/images.ts';
import { makeBusyboxImage } from '../../kit/block-image.ts';
import { startAgentHost, type AgentHost } from '../../kit/device-host.ts';
import { startDockerRegistry } from '../../kit/docker-registry.ts';
import { digestOf } from '../../kit/registry-content.ts';
import { pushLayout } from '../../kit/skopeo.ts';
import { atEndOfAll, tempFolder, type AtEnd } from '../../kit/temp-folder.ts';
import { LinkedDevices } from './linked-devices.ts';
import { startSnapshotter, type ServedSnapshotter } from './served-snapshotter.ts';

/** A registry with images, and a host with an agent. */
export interface BlockRig extends AgentHost {
  /** `host:port` */
  readonly registry: string;
  /** Where the registry keeps its blobs. */
  readonly storage: string;
}

/** Content of the file `/data/big` of the images. */
export const BIG = Buffer.from(
  Array.from({ length: 3_000_000 }, (_, i) => (i * 7 + i / 256) % 251),
);

/**
 * The image `team/app` of two layers: as tags `plain` and `block`, and as `mixed` with an ordinary
 * layer on top of the block image, which adds `/new`, replaces `/data/a.txt` and removes `/etc`;
 * and as `many` with 12 more, which add `/many/1` and so on. `pause` is `plain` with a command, for
 * sandboxes of pods.
 */
async function startBlockRig(atEnd: AtEnd): Promise<BlockRig> {
  const storage = tempFolder(atEnd);
  const registry = await startDockerRegistry({ storage }, atEnd);
  const files = { 'a.txt': Buffer.from('data\n'), big: BIG };
  const folder = tempFolder(atEnd);
  const layout = await makeBusyboxImage(folder, files);
  await addOrdinaryLayers(folder, layout);
  for (const tag of ['plain', 'block', 'mixed', 'many', 'pause'])
    await pushLayout(`${layout}:${tag}`, `${registry}/team/app:${tag}`);
  return { registry, storage, ...(await startAgentHost(registry, atEnd)) };
}

/** The rig that the tests of a `describe()` share. */
export function sharedBlockRig(): {
  readonly rig: BlockRig;
  readonly imageOf: (tag: string) => string;
} {
  const atEnd = atEndOfAll();
  let rig: BlockRig | undefined;
  beforeAll(async () => {
    rig = await startBlockRig(atEnd);
  });
  const started = (): BlockRig => defined(rig, 'it has started');
  return {
    get rig() {
      return started();
    },
    imageOf: (tag) => `${started().registry}/team/app:${tag}`,
  };
}

async function addOrdinaryLayers(folder: string, layout: string): Promise<void> {
  const upper = join(folder, 'upper');
  await mkdir(join(upper, 'data'), { recursive: true });
  await writeFile(join(upper, 'new'), 'new\n');
  await writeFile(join(upper, 'data', 'a.txt'), 'replaced\n');
  await writeFile(join(upper, '.wh.etc'), '');
  await symlink('/data/a.txt', join(upper, 'link'));
  const tars = [tarOf(upper)];
  const block = await readTag({ directory: layout, tag: 'block' });
  await addLayers(layout, block, 'mixed', tars);
  for (let i = 1; i <= 12; i++) {
    const more = join(folder, `more-${i}`);
    await mkdir(join(more, 'many'), { recursive: true });
    await writeFile(join(more, 'many', `${i}`), '');
    tars.push(tarOf(more));
  }
  await addLayers(layout, block, 'many', tars);
  const plain = await readTag({ directory: layout, tag: 'plain' });
  await addLayers(layout, plain, 'pause', [], ['/bin/sleep', '100000']);
}

function tarOf(folder: string): Buffer {
  execFileSync('tar', ['--owner=0', '--group=0', '-C', folder, '-cf', `${folder}.tar`, '.']);
  return readFileSync(`${folder}.tar`);
}

/** Tags an image with more layers on top, and perhaps a command. */
async function addLayers(
  layout: string,
  image: Manifest,
  tag: string,
  tars: readonly Buffer[],
  command?: readonly string[],
): Promise<void> {
  const config = JSON.parse(await readFile(blobPath(layout, image.config.digest), 'utf8')) as {
    rootfs: { diff_ids: string[] };
  };
  config.rootfs.diff_ids.push(...tars.map(digestOf));
  const layers = await Promise.all(tars.map((tar) => put(layout, tar, LAYER_MEDIA_TYPE)));
  const runs = command === undefined ? {} : { config: { Cmd: command } };
  await putImage(layout, tag, { ...config, ...runs }, [...image.layers, ...layers]);
}

/**
 * Puts the image `team/broken:1` into the registry: one layer that says that it is a block layer,
 * and whose blob the registry then loses. Gives the digest of the layer.
 */
export async function pushBrokenImage(rig: BlockRig): Promise<Digest> {
  const digest = await pushBytesAsLayer(rig, 'broken', randomBytes(5000));
  loseBlob(rig, digest);
  return digest;
}

/**
 * Puts the image `team/NAME:1` into the registry: of one layer, which says that it is a block
 * layer.
 */
export async function pushBytesAsLayer(
  { registry }: BlockRig,
  name: string,
  bytes: Uint8Array,
): Promise<Digest> {
  const layout = tempFolder();
  await prepareLayout(layout);
  const layer = await put(layout, bytes, LAYER_MEDIA_TYPE);
  const annotations = {
    [`${OVERLAYBD_ANNOTATION}blob-digest`]: layer.digest,
    [`${OVERLAYBD_ANNOTATION}blob-size`]: `${bytes.length}`,
  };
  const rootfs = { type: 'layers', diff_ids: [layer.digest] };
  const config = { os: 'linux', architecture: 'amd64', rootfs };
  await putImage(layout, '1', config, [{ ...layer, annotations }]);
  await pushLayout(`${layout}:1`, `${registry}/team/${name}:1`);
  return layer.digest;
}

/**
 * Puts an image into the registry that is `team/app:block`, but for what it says of the second
 * layer: of its size, or that it is a trace. It has no digests of blocks. Gives its name.
 */
export async function pushLying(
  { registry }: BlockRig,
  tag: string,
  { moreBytes = 0, isTrace = false },
): Promise<string> {
  const at = (name: string): string => `http://${registry}/v2/team/app/manifests/${name}`;
  const [mediaType] = MANIFEST_MEDIA_TYPES;
  const found = await fetch(at('block'), { headers: { accept: mediaType } });
  const { annotations: _, ...manifest } = (await found.json()) as Manifest;
  const layers = manifest.layers.map((layer, i) => {
    const size = layer.size + (i === 1 ? moreBytes : 0);
    const annotations = {
      [`${OVERLAYBD_ANNOTATION}blob-digest`]: layer.digest,
      [`${OVERLAYBD_ANNOTATION}blob-size`]: `${size}`,
      ...(i === 1 && isTrace && { [ACCELERATION_ANNOTATION]: 'yes' }),
    };
    return { ...layer, size, annotations };
  });
  const body = JSON.stringify({ ...manifest, layers });
  const put = { method: 'PUT', headers: { 'content-type': mediaType }, body };
  expect((await fetch(at(tag), put)).status).toBe(201);
  return `${registry}/team/app:${tag}`;
}

/** Has the registry lose a blob. */
function loseBlob({ storage }: BlockRig, digest: Digest): void {
  const hex = digestHex(digest);
  rmSync(join(storage, 'docker/registry/v2/blobs/sha256', hex.slice(0, 2), hex), {
    recursive: true,
  });
}

async function put(layout: string, bytes: Uint8Array, mediaType: string) {
  const descriptor = { mediaType, digest: digestOf(bytes), size: bytes.length };
  await putBlob(layout, descriptor.digest, bytes);
  return descriptor;
}

async function putImage(
  directory: string,
  tag: string,
  config: object,
  layers: readonly object[],
): Promise<void> {
  const [mediaType] = MANIFEST_MEDIA_TYPES;
  const manifest = {
    ...{ schemaVersion: 2, mediaType, layers },
    config: await put(directory, Buffer.from(JSON.stringify(config)), CONFIG_MEDIA_TYPE),
  };
  const made = await put(directory, Buffer.from(JSON.stringify(manifest)), mediaType);
  await tagManifest({ directory, tag }, made);
}

/** A snapshotter with devices of the rig's agent. */
export interface BlockHost extends ServedSnapshotter {
  readonly devices: LinkedDevices;
  /** Ends the snapshotter alone, and starts it again on the same devices. */
  restart(): Promise<BlockHost>;
}

/** Starts it, until the end; it must leave no mount then. */
export async function startBlockHost(
  { host }: BlockRig,
  atEnd: AtEnd,
  { stateName = '.', agentSocket = join(dirname(host.process.socket), 'agent.sock') } = {},
): Promise<BlockHost> {
  const folder = tempFolder(atEnd);
  const stateDir = join(folder, stateName);
  const devices = new LinkedDevices({ folder, agentSocket });
  atEnd(async () => {
    await devices.stop();
    expect(tracesOf(folder)).toEqual(NO_TRACES);
  });
  await devices.start();
  const start = async (): Promise<BlockHost> => {
    const served = await startSnapshotter({ folder, stateDir, devices: devices.images, atEnd });
    const restart = async (): Promise<BlockHost> => {
      await served.stop();
      return start();
    };
    return { ...served, devices, restart };
  };
  return start();
}

/** No snapshot is left, nor a file or a device of one. */
export async function expectNothingIn({ snapshotter, folder }: BlockHost): Promise<void> {
  expect(snapshotter.list([])).toEqual([]);
  expect(readdirSync(join(folder, 'snapshots'))).toEqual([]);
  // A device that is still in use is unmounted a little later.
  const traces = expect.poll(() => tracesOf(folder), { timeout: 30_000 });
  await traces.toEqual(NO_TRACES);
}
