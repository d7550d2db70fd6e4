import type { BlobOrigin, BlobRef, BlockIndex } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import type { PeerId } from '../util/peer-id.ts';

/** What an agent is: a root reads from registries and keeps trees, a relay keeps those of its group, a child does neither. */
export type AgentRole = 'root' | 'relay' | 'child';

/** A host that can be dialled. Addresses are multiaddrs without the peer id. */
export interface HostAddress {
  readonly peer: PeerId;
  readonly addresses: readonly string[];
}

/** A host as it introduces itself. */
export interface HostCard extends HostAddress {
  /** Failure and bandwidth domain; hosts of one zone hang under one head. */
  readonly zone: string;
  /** Children that it serves in one tree at most; 0 = a leaf everywhere. */
  readonly capacity: number;
  /** Its addresses are its operator's choice; else an address that it is seen under goes before them. */
  readonly announced?: boolean | undefined;
}

/** A run of blocks: `[first index, count]`. */
export type BlockRun = readonly [first: number, count: number];

/** A blob that a host wants, and what it holds of it already. */
export interface WantedBlob {
  readonly blob: BlobRef;
  readonly origin: BlobOrigin;
  /** The stripes of the blob that the asked root owns. */
  readonly stripes: readonly number[];
  /** Blocks held, ascending runs; lets a new owner read from holders before it goes to the registry. */
  readonly held: readonly BlockRun[];
}

/** Child to owner: a place in the tree of each stripe, all layers of an image in one round trip. */
export interface JoinRequest {
  readonly host: HostCard;
  readonly blobs: readonly WantedBlob[];
}

/** A place in the tree of one stripe. */
export interface Place {
  readonly digest: Digest;
  readonly stripe: number;
  /** Grows with every change that the owner makes to this tree: of two places the one with the higher epoch is right. */
  readonly epoch: number;
  /** The ancestors, nearest first: the parent is the first, the owner the last. Never holds the host itself. */
  readonly path: readonly HostAddress[];
  /** Other hosts that may serve the stripe when the parent is late; none of them is below this host. */
  readonly alternates: readonly HostAddress[];
}

/** The order in which containers first touch the blocks of a blob, as far as the owner knows it. */
export interface TouchOrder {
  readonly digest: Digest;
  readonly indices: readonly BlockIndex[];
}

export interface JoinReply {
  readonly places: readonly Place[];
  readonly orders: readonly TouchOrder[];
}

/** Child to owner: the host no longer wants these blobs. Answered with an empty reply. */
export interface LeaveRequest {
  readonly digests: readonly Digest[];
}

/** Child to owner, now and then: still here; these peers did not answer. The reply holds places that changed. */
export interface ReportRequest {
  readonly lost: readonly PeerId[];
  /** Epoch of each place held, so that the owner answers with what changed. */
  readonly held: readonly {
    readonly digest: Digest;
    readonly stripe: number;
    readonly epoch: number;
  }[];
}

export interface ReportReply {
  readonly places: readonly Place[];
  /** Trees in which the owner does not know this host (any more): it joins again. */
  readonly unknown: readonly Digest[];
}

/** Child to root: what an image reference stands for, so that manifests too are read from the registry once. */
export interface ResolveRequest {
  /** `host[:port]/name:tag` or `host[:port]/name@sha256:...` */
  readonly reference: string;
}

export interface ResolveReply {
  readonly manifestDigest: Digest;
  /** The manifest's bytes, at most 4 MiB; the receiver checks them against the digest. */
  readonly manifest: Uint8Array;
  readonly origin: BlobOrigin;
}

/** Child to root: a manifest or an index as the registry keeps it, for the mirror on the child's host. */
export interface ManifestRequest {
  readonly origin: BlobOrigin;
  /** A tag, or `sha256:...`. */
  readonly reference: string;
}

/** Why no manifest is given. `unavailable` may pass; the others are the registry's own word. */
export type ManifestRefusal =
  | 'not-found'
  | 'unauthorized'
  | 'denied'
  | 'rate-limited'
  | 'unavailable';

/** A manifest, or the registry's refusal: told as it is, so that clients of a mirror learn it and nobody asks in vain again. */
export type ManifestReply =
  | {
      readonly outcome: 'found';
      readonly digest: Digest;
      readonly mediaType: string;
      /** Exactly the registry's, at most 4 MiB; the receiver checks them against the digest. */
      readonly bytes: Uint8Array;
      /** Milliseconds since the registry said that the reference stands for this. */
      readonly ageMs: number;
    }
  | {
      readonly outcome: ManifestRefusal;
      /** The WWW-Authenticate header of the registry; empty when there was none. */
      readonly challenge: string;
      /** When to ask again; 0 when the registry did not say. */
      readonly retryAfterMs: number;
    };

/**
 * Child to root: a client of the child's host wants this blob from this origin. The owner of the blob's first stripe asks the origin itself,
 * once for all hosts, and takes no host's word for anything.
 */
export interface OpenRequest {
  readonly digest: Digest;
  readonly origin: BlobOrigin;
  /** A signed URL of the blob that the client showed, lent to this root: it keeps the URL in memory only, and reads by it alone. */
  readonly url?: string;
}

/** What a root says of a blob, or the registry's refusal of the root's own credentials. */
export type OpenReply =
  | {
      readonly outcome: 'open';
      /** Names the blocks: the digest itself, or the key of blob-key.ts when the source is not believed. */
      readonly key: Digest;
      readonly sizeBytes: number;
      /** The registry gives it to anybody. */
      readonly isPublic: boolean;
      readonly isBelieved: boolean;
    }
  /** No root reaches the blob: hosts read it by their clients' own ways. */
  | { readonly outcome: 'no-way'; readonly isBelieved: boolean }
  | {
      readonly outcome: ManifestRefusal;
      /** The WWW-Authenticate header of the registry; empty when there was none. */
      readonly challenge: string;
      /** When to ask again; 0 when the registry did not say. */
      readonly retryAfterMs: number;
    };
