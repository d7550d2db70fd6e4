import type { Digest } from '../../image/digest.ts';
import type { WritableMode } from '../contracts.ts';

/** As containerd has it: written to, looked at, or done. Only a done one has children. */
export type SnapshotKind = 'active' | 'view' | 'committed';

/** What a snapshot holds. */
export type SnapshotLayer =
  /** Files in a folder of its own. */
  | { readonly kind: 'files' }
  /** A layer of a block device. */
  | {
      readonly kind: 'block';
      readonly chainId: string;
      readonly digest: Digest;
      readonly sizeBytes: number;
      /** Whether containerd downloaded it into the folder of the snapshot. */
      readonly isLocal: boolean;
    }
  /** A trace of a container's start, which adds nothing to the device. */
  | { readonly kind: 'trace'; readonly chainId: string };

/** Space that a snapshot takes by itself, without its parents. */
export interface Usage {
  readonly sizeBytes: number;
  readonly inodes: number;
}

/** Key and value of labels. */
export type Labels = Readonly<Record<string, string>>;

/** One snapshot, as it is kept. */
export interface SnapshotRecord {
  /** Never used again: the folder of the snapshot and its hold on a device have this name. */
  readonly id: number;
  /** containerd's key: `namespace/sequence/key`, or the chain id of a remote snapshot. */
  readonly name: string;
  /** Name of the parent; empty: none. */
  readonly parent: string;
  readonly kind: SnapshotKind;
  readonly layer: SnapshotLayer;
  readonly labels: Labels;
  /** Since 1970, in milliseconds. */
  readonly createdMs: number;
  readonly updatedMs: number;
  /** Of a committed one; others are measured. */
  readonly usage: Usage;
  /** The boot of the host in which it took hold of a device; empty: never. */
  readonly heldInBoot: string;
  /** Of an active one whose root is a device of its own; absent: an overlay. */
  readonly writable?: WritableMode;
}
