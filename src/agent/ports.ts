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

/** Decides whether a local client may read what this host has, or can get, of a blob or a manifest. */
export interface AccessGate {
  /**
   * Resolves when the registry (or the signed URL) lets the request's own credentials read the blob, or did so lately.
   * Rejects with AccessError, whose codes become 401, 403, 404 or 503, and whose challenges belong into the answer; or with the signal's reason.
   */
  check(
    address: BlobAddress,
    digest: Digest,
    options: { readonly authorization?: string; readonly signal: AbortSignal },
  ): Promise<void>;
}

/** A gate that can also tell without asking anybody. */
export interface RememberingGate extends AccessGate {
  /** Whether `check()` would resolve at once. */
  accepts(address: BlobAddress, digest: Digest, authorization: string | undefined): boolean;
}

/**
 * Finds blobs by digest, wherever they are known: in the store, at a root, at the registry.
 * Rejects with CodedErrors; see `statusOf()` in blob-endpoint.ts for the codes that become other answers than 502.
 */
export interface BlobDirectory {
  /** The blob with its size, for a request that may read it. */
  open(
    digest: Digest,
    address: BlobAddress,
    options: { readonly signal: AbortSignal },
  ): Promise<BlobRef>;
  /** The blob when it is open already. */
  opened(digest: Digest): BlobRef | undefined;
}
