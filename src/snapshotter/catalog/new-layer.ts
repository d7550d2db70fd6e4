import type { Hash } from '../../runtime/codec.ts';
import { SnapshotError } from '../errors.ts';
import {
  blockLabelsOf,
  chainIdAt,
  chainIdOf,
  imageLabelsOf,
  isBlockChain,
  targetOf,
} from './layer-labels.ts';
import type { Labels, SnapshotLayer, SnapshotRecord } from './snapshot.ts';

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
  return layerOf(said, chainId, false);
}

/**
 * The layer that an unpacked snapshot is. Labels tell a layer of a block image, its file that it is
 * one. Throws SnapshotError when ordinary layers lie below such a layer.
 */
export function localLayerOf(
  { hash }: Components,
  labels: Labels,
  { hasFile, below }: { readonly hasFile: boolean; readonly below: readonly SnapshotRecord[] },
): SnapshotLayer {
  const said = blockLabelsOf(labels);
  if (said === undefined || !(hasFile || said.isTrace)) return { kind: 'files' };
  if (!isBlockChain(below)) {
    const what = `the layer ${said.digest} of a block device lies on top of ordinary layers`;
    throw new SnapshotError(what, { code: 'precondition' });
  }
  const [parent] = below;
  const chainId = chainIdOf(hash, {
    parent: parent && chainIdAt(parent.layer),
    digest: said.digest,
  });
  return layerOf(said, chainId, true);
}

function layerOf(
  { digest, sizeBytes, isTrace }: NonNullable<ReturnType<typeof blockLabelsOf>>,
  chainId: string,
  isLocal: boolean,
): SnapshotLayer {
  if (isTrace) return { kind: 'trace', chainId };
  return { kind: 'block', chainId, digest, sizeBytes, isLocal };
}
