import { CodedError } from '../util/errors.ts';

/** Why an operation on snapshots failed. */
export type SnapshotErrorDetail =
  | { readonly code: 'not-found' }
  | { readonly code: 'already-exists' }
  /** The call itself is wrong, whatever snapshots there are. */
  | { readonly code: 'invalid' }
  /** The snapshot is not in the state that the call needs. */
  | { readonly code: 'precondition' }
  | { readonly code: 'too-many'; readonly limit: number }
  /** The metadata cannot be written or read. */
  | { readonly code: 'metadata' };

/** Ends a sentence about metadata that cannot be used. */
export const WHAT_TO_DO =
  ': restore the file; or remove what containerd has of this snapshotter (containers, images, ' +
  'snapshots), move the folder away and start again';

/** An operation on snapshots failed. */
export class SnapshotError extends CodedError<SnapshotErrorDetail> {}
