import type { BlobOrigin, BlobRef, BlockIndex } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import type { SignedClaim } from '../image/signed-claim.ts';
import type { PeerId } from '../util/peer-id.ts';

/**
 * The role of an agent: a root reads from registries and keeps trees, a relay keeps the trees of
 * its group, a child does neither.
 */
export type AgentRole = 'root' | 'relay' | 'child';

/** A host that can be dialled. Addresses are multiaddrs without the peer id. */
export interface HostAddress {
  readonly peer: PeerId;
  readonly addresses: readonly string[];
}

/** How a host introduces itself. */
export interface HostCard extends HostAddress {
  /** Failure and bandwidth domain; the hosts of one zone hang under one head. */
  readonly zone: string;
  /** Maximum number of children that the host serves in one tree; 0: a leaf everywhere. */
  readonly capacity: number;
  /**
   * Its addresses are its operator's choice; else an address that it is seen under goes before
   * them.
   */
  readonly announced?: boolean | undefined;
}

/** A run of blocks: `[first index, count]`. */
export type BlockRun = readonly [first: number, count: number];

/** A blob that a host wants, and the blocks that it already holds. */
export interface WantedBlob {
  readonly blob: BlobRef;
  readonly origin: BlobOrigin;
  /** The stripes of the blob that the asked root owns. */
  readonly stripes: readonly number[];
  /** Blocks held, as ascending runs: a new owner reads from holders before it asks the registry. */
  readonly held: readonly BlockRun[];
}

/**
 * Child to owner: asks for a place in the tree of each stripe, for all layers of an image in one
 * round trip.
 */
export interface JoinRequest {
  readonly host: HostCard;
  readonly blobs: readonly WantedBlob[];
}

/** A place in the tree of one stripe. */
export interface Place {
  readonly digest: Digest;
  readonly stripe: number;
  /**
   * Grows with every change that the owner makes to this tree: the place with the higher epoch
   * wins.
   */
  readonly epoch: number;
  /**
   * Ancestors, nearest first: the first is the parent, the last the owner. Never holds the host
   * itself.
   */
  readonly path: readonly HostAddress[];
  /**
   * Other hosts that may serve the stripe when the parent is late; none of them is below this host.
   */
  readonly alternates: readonly HostAddress[];
}

/** Order in which containers first touch the blocks of a blob, as far as the owner knows it. */
export interface TouchOrder {
  readonly digest: Digest;
  readonly indices: readonly BlockIndex[];
}

/** A root's word that a blob is distrusted, for a host that wants or holds it. */
export interface BlobNotice {
  readonly digest: Digest;
  readonly notice: SignedClaim;
}

/** Owner to child: a place for each stripe wanted, and the touch orders known of these blobs. */
export interface JoinReply {
  readonly places: readonly Place[];
  readonly orders: readonly TouchOrder[];
  /** Of the wanted blobs that the owner distrusts. */
  readonly notices?: readonly BlobNotice[];
}

/** Child to owner: the host no longer wants these blobs. The owner answers with an empty reply. */
export interface LeaveRequest {
  readonly digests: readonly Digest[];
}

/**
 * Child to owner, each `REPORT_INTERVAL_MS`: the host is alive, and these peers did not answer. The
 * reply holds the places that changed.
 */
export interface ReportRequest {
  readonly lost: readonly PeerId[];
  /** Epoch of each place held, so that the owner answers with the changes only. */
  readonly held: readonly {
    readonly digest: Digest;
    readonly stripe: number;
    readonly epoch: number;
  }[];
}

/** Owner to child: what changed since the places that the report lists. */
export interface ReportReply {
  readonly places: readonly Place[];
  /** Trees in which the owner does not know this host, or no longer: the host joins them again. */
  readonly unknown: readonly Digest[];
  /** Of the blobs of the report that the owner distrusts. */
  readonly notices?: readonly BlobNotice[];
}

/**
 * Child to root: asks which manifest an image reference names, so that agents read manifests from
 * the registry only once too.
 */
export interface ResolveRequest {
  /** `host[:port]/name:tag` or `host[:port]/name@sha256:...` */
  readonly reference: string;
}

/** Root to child: the manifest that a reference names. */
export interface ResolveReply {
  readonly manifestDigest: Digest;
  /** The manifest's bytes, at most 4 MiB; the receiver checks them against the digest. */
  readonly manifest: Uint8Array;
  readonly origin: BlobOrigin;
}

/**
 * Child to root: asks for a manifest or an index as the registry keeps it, for the mirror on the
 * child's host.
 */
export interface ManifestRequest {
  readonly origin: BlobOrigin;
  /** A tag, `sha256:...`, or `block-images:sha256:...` for the list of its block images. */
  readonly reference: string;
}

/**
 * Why a root gives nothing. `unavailable` may pass; the others repeat the registry's answer.
 */
export type RegistryRefusal =
  | 'not-found'
  | 'unauthorized'
  | 'denied'
  | 'rate-limited'
  | 'unavailable';

/** What a root says in place of what was asked. */
export interface Refusal {
  readonly outcome: RegistryRefusal;
  /** The registry's WWW-Authenticate header; empty when it sent none. */
  readonly challenge: string;
  /** Milliseconds until the asker may ask again; 0 when the registry did not say. */
  readonly retryAfterMs: number;
}

/**
 * A manifest, or the registry's refusal. A root passes the refusal on unchanged: clients of a
 * mirror learn it, and nobody repeats the request in vain.
 */
export type ManifestReply =
  | {
      readonly outcome: 'found';
      readonly digest: Digest;
      readonly mediaType: string;
      /**
       * Exactly the registry's bytes, at most 4 MiB; the receiver checks them against the digest.
       */
      readonly bytes: Uint8Array;
      /** Milliseconds since the registry said that the reference names this digest. */
      readonly ageMs: number;
    }
  /** The registry sent something that is no manifest, or another one. */
  | { readonly outcome: 'bad-content'; readonly why: string }
  | Refusal;

/**
 * Child to root: a client of the child's host wants this blob from this origin. The owner of the
 * blob's first stripe asks the origin itself, once for all hosts, and takes no host's word for
 * anything.
 */
export interface OpenRequest {
  readonly digest: Digest;
  readonly origin: BlobOrigin;
  /**
   * A signed URL of the blob that the client showed, lent to this root: it keeps the URL in memory
   * only, and reads by it alone.
   */
  readonly url?: string;
}

/** What a root says of a blob, or the registry's refusal of the root's own credentials. */
export type OpenReply =
  | {
      readonly outcome: 'open';
      /**
       * Names the blocks: the digest itself, or the key of blob-key.ts when the source is not
       * believed.
       */
      readonly key: Digest;
      readonly sizeBytes: number;
      /** The registry gives it to anybody. */
      readonly isPublic: boolean;
      readonly isBelieved: boolean;
      /** The root distrusts the blob: hosts take only `whole` claims of it from now on. */
      readonly notice?: SignedClaim;
    }
  /** No root reaches the blob: hosts read it by their clients' own ways. */
  | { readonly outcome: 'no-way'; readonly isBelieved: boolean }
  | Refusal;

/**
 * Host to root: wrong blocks of the blob were attested. With a `whole` claim of another root, or a
 * notice, the root distrusts the blob at once; else it checks the blob, and then looks for claims
 * that differ from what it found.
 */
export interface WrongBlobReport {
  readonly digest: Digest;
  /** Claims of the blocks that the host held: at most `WRONG_CLAIMS_MAX`. */
  readonly claims: readonly SignedClaim[];
}

/** Root to host: the root's word, if it distrusts the blob now. */
export interface WrongBlobReply {
  readonly notice?: SignedClaim;
}
