import { defined } from '../../util/assert.ts';
import type { ChainLayer, DeviceChain } from '../contracts.ts';
import { SnapshotError } from '../errors.ts';
import { imageLabelsOf } from './layer-labels.ts';
import type { SnapshotRecord } from './snapshot.ts';

/** What lies below a snapshot. */
export interface Lower {
  /** Snapshots with files of their own, the upper ones first. */
  readonly folders: readonly SnapshotRecord[];
  /** The device under all of them. */
  readonly chain: DeviceChain | undefined;
}

/** What a record says of a layer. */
type LayerRecord = Pick<SnapshotRecord, 'id' | 'layer' | 'labels'>;

/** Names the file of a layer that containerd downloaded. */
type FileOf = (record: Pick<SnapshotRecord, 'id'>) => string;

/**
 * What lies below a snapshot with these ancestors, its parent first: folders on top, then layers of
 * a device. Throws SnapshotError.
 */
export function lowerOf(ancestors: readonly SnapshotRecord[], fileOf: FileOf): Lower {
  const isFolder = ({ layer }: SnapshotRecord): boolean => layer.kind === 'files';
  const at = ancestors.findIndex((record) => !isFolder(record));
  if (at < 0) return { folders: ancestors, chain: undefined };
  const below = ancestors.slice(at);
  const file = below.find(isFolder);
  if (file !== undefined) {
    const what = `snapshot ${file.name} has files, and a layer of a block device lies on top of it`;
    throw new SnapshotError(what, { code: 'precondition' });
  }
  return { folders: ancestors.slice(0, at), chain: chainOf(below, fileOf) };
}

/** The device of these layers, the top one first; undefined when none of them adds to one. */
export function chainOf(records: readonly LayerRecord[], fileOf: FileOf): DeviceChain | undefined {
  const layers = records.flatMap((record) => layerOf(record, fileOf)).reverse();
  if (layers.length === 0) return undefined;
  const { chainId } = defined(
    records.map(({ layer }) => layer).find((layer) => layer.kind === 'block'),
    'it has a block layer',
  );
  const image = records.map(({ labels }) => imageLabelsOf(labels)).find((said) => said);
  return { chainId, layers, ...(image ?? { reference: '' }) };
}

function layerOf(record: LayerRecord, fileOf: FileOf): readonly ChainLayer[] {
  const { layer } = record;
  if (layer.kind !== 'block') return [];
  const { digest, sizeBytes, isLocal } = layer;
  return [{ digest, sizeBytes, ...(isLocal && { file: fileOf(record) }) }];
}
