import type { SnapshotRecord } from '../../../src/snapshotter/catalog/snapshot.ts';

/** A record; committed, with files, where nothing else is said. */
export function record(
  fields: Partial<SnapshotRecord> & { readonly name: string },
): SnapshotRecord {
  return {
    ...{ id: 1, parent: '', kind: 'committed', layer: { kind: 'files' }, labels: {} },
    ...{ createdMs: 0, updatedMs: 0, usage: { sizeBytes: 0, inodes: 0 }, heldInBoot: '' },
    ...fields,
  };
}
