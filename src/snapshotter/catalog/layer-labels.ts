import { BLOB_SIZE_BYTES_MAX } from '../../image/block.ts';
import { digestOf, parseDigest, type Digest } from '../../image/digest.ts';
import {
  ACCELERATION_ANNOTATION,
  OVERLAYBD_ANNOTATION,
  OVERLAYBD_VERSION,
} from '../../image/manifest.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { DeviceChain, WritableMode } from '../contracts.ts';
import type { Labels, SnapshotLayer, SnapshotRecord } from './snapshot.ts';

/** The chain id of the layer that a snapshot is prepared for; absent for those of containers. */
const TARGET = 'containerd.io/snapshot.ref';

/** Where an image is from: of CRI, of stargz's clients (`ctr-remote`), and of newer clients. */
const REFERENCES = [
  'containerd.io/snapshot/cri.image-ref',
  'containerd.io/snapshot/remote/stargz.reference',
  'containerd.io/snapshot/image-ref',
];

const MANIFEST_DIGEST = 'containerd.io/snapshot/cri.manifest-digest';

/** How overlaybd's snapshotter is told that a container's root is a device of its own. */
const WRITABLE = 'containerd.io/snapshot/overlaybd.writable';

/** Where overlaybd's snapshotter says that a committed layer lies on this host. */
const COMMIT_PATH = 'containerd.io/snapshot/overlaybd.localcommitpath';

/** Longest reference of an image that is taken, in characters; registries take 255 for a name. */
const REFERENCE_CHARACTERS_MAX = 1024;

/** What labels say of a layer of a block image. */
export interface BlockLabels {
  readonly digest: Digest;
  readonly sizeBytes: number;
  readonly isTrace: boolean;
}

/** The chain id of the layer that a snapshot is prepared for. */
export function targetOf(labels: Labels): string | undefined {
  return textAt(labels, TARGET);
}

/** The layer of a block image that labels describe; undefined for an ordinary one. */
export function blockLabelsOf(labels: Labels): BlockLabels | undefined {
  const digest = parseDigest(textAt(labels, `${OVERLAYBD_ANNOTATION}blob-digest`) ?? '');
  const size = textAt(labels, `${OVERLAYBD_ANNOTATION}blob-size`) ?? '';
  const sizeBytes = /^[0-9]{1,16}$/.test(size) ? Number(size) : 0;
  if (digest === undefined || sizeBytes === 0 || sizeBytes > BLOB_SIZE_BYTES_MAX) return undefined;
  return { digest, sizeBytes, isTrace: textAt(labels, ACCELERATION_ANNOTATION) === 'yes' };
}

/**
 * How the device of a container is written that has these labels; undefined for an overlay, as with
 * other values, and for the layers of a pull.
 */
export function writableOf(labels: Labels): WritableMode | undefined {
  const mode = textAt(labels, WRITABLE);
  return targetOf(labels) === undefined && (mode === 'dir' || mode === 'dev') ? mode : undefined;
}

/** What a committed layer says of itself: its annotations in a manifest, and its file. */
export function committedLabels(
  layer: { readonly digest: Digest; readonly sizeBytes: number },
  path: string,
): Labels {
  return {
    [`${OVERLAYBD_ANNOTATION}blob-digest`]: layer.digest,
    [`${OVERLAYBD_ANNOTATION}blob-size`]: String(layer.sizeBytes),
    [`${OVERLAYBD_ANNOTATION}blob-fs-type`]: 'ext4',
    [`${OVERLAYBD_ANNOTATION}version`]: OVERLAYBD_VERSION,
    [COMMIT_PATH]: path,
  };
}

/** What clients say of the image that a layer is of. */
export function imageLabelsOf(
  labels: Labels,
): Pick<DeviceChain, 'reference' | 'manifestDigest'> | undefined {
  const reference = REFERENCES.map((key) => textAt(labels, key)).find((text) => text !== undefined);
  if (reference === undefined || reference.length > REFERENCE_CHARACTERS_MAX) return undefined;
  const manifestDigest = parseDigest(textAt(labels, MANIFEST_DIGEST) ?? '');
  return { reference, ...(manifestDigest && { manifestDigest }) };
}

/** The file system that labels name; undefined when they name none. */
export function fsTypeOf(labels: Labels): string | undefined {
  return textAt(labels, `${OVERLAYBD_ANNOTATION}blob-fs-type`);
}

/**
 * Chain id of a layer on top of another (OCI image config, "Layer ChainID"), for layers whose
 * uncompressed digest is the blob's own, as those of block images are.
 */
export function chainIdOf(
  hash: Pick<Hash, 'sha256'>,
  { parent, digest }: { readonly parent: string | undefined; readonly digest: Digest },
): string {
  return parent === undefined
    ? digest
    : digestOf(hash, new TextEncoder().encode(`${parent} ${digest}`));
}

/** Whether nothing but layers of a block image lies in and below a snapshot. */
export function isBlockChain(layers: readonly Pick<SnapshotRecord, 'layer'>[]): boolean {
  return layers.every(({ layer }) => layer.kind !== 'files');
}

/** Chain id of a snapshot of a block image; undefined for an ordinary one. */
export function chainIdAt(layer: SnapshotLayer): string | undefined {
  return layer.kind === 'files' ? undefined : layer.chainId;
}

function textAt(labels: Labels, key: string): string | undefined {
  const text = Object.hasOwn(labels, key) ? labels[key] : undefined;
  return text === '' ? undefined : text;
}
