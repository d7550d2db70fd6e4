import type { BlobUsage, Evicted } from '../blockstore/store.ts';
import type { BlobOrigin, BlobRef } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import type { PreheatJob, PreheatSpec } from '../transfer/preheat-messages.ts';
import type { Config } from './config-schema.ts';

/** Facts about a running agent, for people and scripts. */
export interface AgentStatus {
  readonly version: string;
  readonly role: Config['role'];
  readonly peer: string;
  readonly zone: string;
  /** Multiaddrs that it tells others. */
  readonly addresses: readonly string[];
  readonly uptimeSeconds: number;
  /** Why it is not ready; absent when it is. */
  readonly notReady?: string;
  /** Peers that it has a connection to. */
  readonly peers: readonly string[];
  readonly store: {
    readonly dir: string;
    readonly quotaBytes: number;
    readonly sizeBytes: number;
    readonly blobCount: number;
    readonly blockCount: number;
  };
  /** Reads of this host that failed since the start. */
  readonly failedReads: number;
  /** Bytes by source (memory, disk, parent, alternate, root, origin, fallback) since the start. */
  readonly bytesBySource: Readonly<Record<string, number>>;
}

/** The place of this host in the tree of one stripe. */
export interface TreeStatus {
  readonly digest: Digest;
  readonly stripe: number;
  readonly epoch: number;
  /** Peers from the parent to the owner; empty at the owner itself. */
  readonly path: readonly string[];
  readonly alternates: readonly string[];
  readonly children: readonly string[];
}

/** Blocks of a blob in the store of this host. */
export interface HeldBlob {
  readonly digest: Digest;
  readonly sizeBytes: number;
  /** Runs of [first index, count], ascending. */
  readonly blocks: readonly (readonly [first: number, count: number])[];
}

/** What the admin endpoint tells about the agent. Answers at once, from memory. */
export interface StatusSource {
  /** Why the agent cannot serve yet, or undefined when it can. One line. */
  notReady(): string | undefined;
  status(): AgentStatus;
  /** Of one blob, or of all. */
  tree(digest?: Digest): readonly TreeStatus[];
  /** What the store holds. */
  blobs(): readonly HeldBlob[];
}

/** An image mounted on this host. */
export interface MountedImage {
  /** As the user named it. */
  readonly image: string;
  readonly digest: Digest;
  /** Where it is mounted, absolute. */
  readonly dir: string;
  /** The block device under it, such as `/dev/loop3`. */
  readonly device: string;
  readonly sizeBytes: number;
}

/** Mounts images. Rejects with CodedErrors; those named in admin-server.ts become 4xx answers, others 500. */
export interface MountService {
  /** `image` is `docker://host[:port]/name:tag`; `dir` is absolute. */
  mount(image: string, dir: string, signal: AbortSignal): Promise<MountedImage>;
  /** Does nothing when nothing of ours is mounted there. */
  unmount(dir: string): Promise<void>;
  list(): readonly MountedImage[];
}

/** What `xylem store` shows and changes. Rejects with BlockStoreError, and with what resolving an image rejects with. */
export interface StoreService {
  usage(): readonly BlobUsage[];
  /** `what` is a blob's digest, or `docker://host[:port]/name:tag` for the blobs of an image, its config included; what it came to. */
  pin(what: string): Promise<readonly Digest[]>;
  unpin(what: string): Promise<readonly Digest[]>;
  /** Evicts down to `targetBytes`, or to the low watermark of the quota. */
  gc(targetBytes: number | undefined): Promise<Evicted>;
}

/** Preheats, as the admin endpoint starts and shows them. Rejects with PreheatError. */
export interface PreheatService {
  start(spec: PreheatSpec): Promise<PreheatJob>;
  get(id: string): Promise<PreheatJob>;
  /** What has come stays where it is. */
  cancel(id: string): Promise<PreheatJob>;
}

/** A blob as a URL of its origin names it. */
export interface BlobAddress extends BlobOrigin {
  readonly scheme: 'http' | 'https';
  /** Empty when the URL does not tell it: that of a storage behind the registry, to which the registry redirected. */
  readonly repository: string;
  /** The whole URL as the client sent it, percent-encoding and signature included. Secret: it may be the permission itself. */
  readonly url: string;
}

/**
 * Finds blobs by digest, wherever they are known: in the store, at a root, at the registry.
 * Rejects with CodedErrors; see `statusOf()` in blob-endpoint.ts for the codes that become other answers than 502.
 */
export interface BlobDirectory {
  /**
   * The blob with its size, after making sure that this request may read it: a blob of a repository that needs credentials is opened
   * only for credentials (or a signed URL) that the registry accepted lately.
   */
  open(
    digest: Digest,
    address: BlobAddress,
    options: { readonly authorization?: string; readonly signal: AbortSignal },
  ): Promise<BlobRef>;
}

/** Decides whether a request of a local client may read what this host has, or gets with its own credentials. */
export interface AccessGate {
  /**
   * Resolves when the registry lets the request's own credentials read the blob or manifest, or did so lately. Rejects with a CodedError:
   * `unauthorized` (its detail may hold the registry's `challenges`), `denied` or `not-found`; anything else counts as a registry that cannot be
   * asked; or with the signal's reason.
   */
  check(
    address: BlobAddress,
    digest: Digest,
    options: { readonly authorization?: string; readonly signal: AbortSignal },
  ): Promise<void>;
}
