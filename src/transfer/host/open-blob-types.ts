import type { BlobOrigin, BlobRef } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { PeerId } from '../../util/peer-id.ts';
import type { PeerHealth } from './peer-health.ts';

/** Stands for a request's credentials or signed URL: a hash, not the secret. Empty: none. */
export type RightKey = string;

/** Why a request may not read a blob; data for the answer. */
export type OpenRefusal =
  | { readonly code: 'unauthorized' | 'denied'; readonly challenges: readonly string[] }
  | { readonly code: 'not-found' }
  /** The registry asks for patience. */
  | { readonly code: 'rate-limited'; readonly retryAfterMs: number }
  /** The bytes at the URL are of another size than the blob. */
  | { readonly code: 'other-content'; readonly sizeBytes: number }
  /** The origin was not asked for a passing reason of this host: no outage. */
  | { readonly code: 'undecided' }
  /** Its answer says nothing, or it may not be asked; that will be so the next time. */
  | { readonly code: 'unsound'; readonly why: string }
  /** Neither a root nor the origin answered: `silent` names those that were asked. */
  | { readonly code: 'unchecked'; readonly silent: readonly string[] };

/** What a root answers to OPEN. */
export type OpenAnswer =
  | {
      readonly outcome: 'open';
      /** Names the blocks: the blob's digest, or a quarantine key for a doubtful source. */
      readonly key: Digest;
      readonly sizeBytes: number;
      /** The registry gives it to anybody. */
      readonly isPublic: boolean;
    }
  /** No root reaches the blob: its host reads it by the client's own way. */
  | { readonly outcome: 'no-way' }
  | { readonly outcome: 'refused'; readonly refusal: OpenRefusal };

/** The origin's word on a request's own right: by a GET of one byte; no HEAD, redirect or page. */
export type ProbeResult =
  | { readonly outcome: 'accepted'; readonly sizeBytes: number }
  | { readonly outcome: 'refused'; readonly refusal: OpenRefusal }
  /** No connection, silence, or an error of its own (5xx). What was not asked is no outage. */
  | { readonly outcome: 'unreachable' };

/** A request of a local client for a blob. `T` names it; compared by identity. */
export interface OpenRequest<T> {
  readonly token: T;
  readonly digest: Digest;
  readonly origin: BlobOrigin;
  readonly right: RightKey;
  /** The origin has just accepted the right, by a GET of one byte, and told this size. */
  readonly shownBytes?: number | undefined;
  /**
   * How long roots and origin are asked again while none of them answers, in milliseconds; a client
   * that goes elsewhere by itself had rather know at once. Default: 0.
   */
  readonly patienceMs?: number | undefined;
}

/** A blob that a request may read. */
export interface OpenedBlob {
  readonly blob: BlobRef;
  /** False when only this host's way leads to it: it is in no tree, and no peer gets any of it. */
  readonly isShared: boolean;
}

/** Work for the driver; outcomes come back by the named call. */
export type OpenEffect<T> =
  /** Ask a root; then `answered()` or `rootFailed()`. */
  | {
      readonly type: 'ask-root';
      readonly attempt: number;
      readonly root: PeerId;
      readonly digest: Digest;
      readonly origin: BlobOrigin;
      readonly right: RightKey;
    }
  /** Nobody waits for this answer any more. */
  | { readonly type: 'cancel'; readonly attempt: number }
  /** Get one byte with the client's own right; then `probed()`. */
  | {
      readonly type: 'probe';
      readonly attempt: number;
      readonly digest: Digest;
      readonly origin: BlobOrigin;
      readonly right: RightKey;
    }
  | { readonly type: 'grant'; readonly token: T; readonly opened: OpenedBlob }
  | { readonly type: 'refuse'; readonly token: T; readonly refusal: OpenRefusal }
  /**
   * The blob of this size is public in this repository, or, with undefined, no longer: kept for
   * `OpenBlobsComponents.kept()`.
   */
  | {
      readonly type: 'keep';
      readonly digest: Digest;
      readonly origin: BlobOrigin;
      readonly sizeBytes: number | undefined;
    }
  /** A blob proved to have another size: the blocks under the key are dropped. */
  | { readonly type: 'drop'; readonly blob: BlobRef }
  /** The last user is long gone: the host leaves its trees. */
  | { readonly type: 'close'; readonly blob: BlobRef };

/** What an `OpenBlobs` asks its host, synchronously. */
export interface OpenBlobsComponents {
  /** What this host knows of the roots from all its calls; the driver notes failures there. */
  readonly health: PeerHealth;
  /** Roots in the order in which they own the blob's first stripe. */
  readonly roots: (digest: Digest, origin: BlobOrigin) => readonly PeerId[];
  /** Names the blocks of a blob that is read alone: `ownWayKey()` of image/blob-key.ts. */
  readonly ownKey: (blob: BlobRef, origin: BlobOrigin) => Digest;
  /** What was kept of a blob that was public in this repository, and for how long it counts. */
  readonly kept: (digest: Digest, origin: BlobOrigin) => KeptVerdict | undefined;
}

/** What was public when it was last asked for is so for this long while nobody answers. */
export const PUBLIC_MS_MAX = 24 * 3_600_000;

/** What is kept of a blob that was public in the last day. */
export interface KeptVerdict {
  readonly sizeBytes: number;
  /** Milliseconds that are left of the day. */
  readonly leftMs: number;
}

/** Settings of an `OpenBlobs`. */
export interface OpenBlobsInit {
  /** Maximum number of open blobs; the least recently used one without waiting requests closes. */
  readonly entriesMax: number;
  /**
   * Maximum number of trees that this host is in for its clients; the least recently used blobs
   * close. Below what one owner gives a host (tree/limits.ts), or new blobs get no place.
   */
  readonly stripesMax: number;
  /** How long an accepted right counts, in milliseconds. */
  readonly acceptMs: number;
  /** How much longer while the origin is away, in milliseconds. */
  readonly staleMs: number;
  /** A blob closes when nobody used it for this long, in milliseconds. */
  readonly idleMs: number;
}

/**
 * Whether a refusal says all that the registry would: a client needs the challenge, and of a
 * registry that the root cannot reach this host may hear more.
 */
export function isWholeRefusal(refusal: OpenRefusal): boolean {
  if (refusal.code === 'unchecked') return false;
  return !('challenges' in refusal) || refusal.challenges.length > 0;
}

/** What one source says of a digest counts for no other, until a root gives both the same key. */
export function openBlobId({
  digest,
  origin,
}: {
  readonly digest: Digest;
  readonly origin: BlobOrigin;
}): string {
  return `${digest} ${origin.storage ?? `${origin.registry}/${origin.repository}`}`;
}
