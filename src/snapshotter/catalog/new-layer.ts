import { digestOf } from '../../image/digest.ts';
import type { Hash } from '../../runtime/codec.ts';
import { SnapshotError } from '../errors.ts';
import {
  blockLabelsOf,
  chainIdAt,
  chainIdOf,
  fsTypeOf,
  imageLabelsOf,
  isBlockChain,
  targetOf,
} from './layer-labels.ts';
import type { Labels, SnapshotLayer, SnapshotRecord } from './snapshot.ts';

/** What containerd has unpacked into a folder. */
export type UnpackedLayer =
  | { readonly kind: 'files' }
  | { readonly kind: 'block'; readonly sizeBytes: number }
  | { readonly kind: 'trace' };

interface Components {
  readonly hash: Pick<Hash, 'sha256'>;
}

/**
 * The layer that a snapshot with these labels would be, on top of `below` (its parent first), when
 * it can be read on demand; undefined for one that containerd has to download and unpack:
 *
 * - the labels do not describe a layer of a block image, or do not say where the image is from;
 * - ordinary layers lie below;
 * - its chain id is not that of the blobs that the labels name. containerd compares a downloaded
 *   layer with the image's config, and nothing compares one that is not downloaded. Without this
 *   rule, an image could put its own blobs in the place of another image's layers.
 *
 * Throws SnapshotError when the labels name a filesystem that is not mounted.
 */
export function remoteLayerOf(
  { hash }: Components,
  labels: Labels,
  below: readonly SnapshotRecord[],
): SnapshotLayer | undefined {
  const target = targetOf(labels);
  const said = blockLabelsOf(labels);
  if (target === undefined || said === undefined) return undefined;
  if (imageLabelsOf(labels) === undefined || !isBlockChain(below)) return undefined;
  const [parent] = below;
  const chainId = chainIdOf(hash, {
    parent: parent && chainIdAt(parent.layer),
    digest: said.digest,
  });
  if (chainId !== target) return undefined;
  requireFilesystem(labels, target);
  const { digest, sizeBytes, isTrace } = said;
  if (isTrace) return { kind: 'trace', chainId };
  return { kind: 'block', chainId, digest, sizeBytes, isLocal: false };
}

/** The blob that a layer says is a trace; undefined for another layer. */
export function traceOf(layer: SnapshotLayer, labels: Labels) {
  const [said, image] = [blockLabelsOf(labels), imageLabelsOf(labels)];
  if (layer.kind !== 'trace' || said === undefined || image === undefined) return undefined;
  return { reference: image.reference, digest: said.digest, sizeBytes: said.sizeBytes };
}

/** What a device holds its content says: this is for images that nobody could start. */
function requireFilesystem(labels: Labels, target: string): void {
  const type = fsTypeOf(labels) ?? 'ext4';
  if (type === 'ext4' || type === 'erofs') return;
  const what = `the layer ${target} of the image holds ${type}: ext4 or erofs is mounted`;
  throw new SnapshotError(what, { code: 'precondition' });
}

/**
 * The layer that an unpacked snapshot of this name is. Nothing says which blob it was: a name of
 * its own stands for that, and for the chain up to it, which has other content nowhere. Throws
 * SnapshotError when ordinary layers lie below a layer of a block image.
 */
export function localLayerOf(
  { hash }: Components,
  { name, unpacked }: { readonly name: string; readonly unpacked: UnpackedLayer },
  below: readonly SnapshotRecord[],
): SnapshotLayer {
  if (unpacked.kind === 'files') return unpacked;
  if (!isBlockChain(below)) {
    const what = `the layer ${name} of a block image lies on top of ordinary layers`;
    throw new SnapshotError(what, { code: 'precondition' });
  }
  const digest = digestOf(hash, new TextEncoder().encode(name));
  if (unpacked.kind === 'trace') return { kind: 'trace', chainId: digest };
  const { sizeBytes } = unpacked;
  return { kind: 'block', chainId: digest, digest, sizeBytes, isLocal: true };
}
