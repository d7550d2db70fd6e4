import type { BlobUsage, Evicted } from '../../blockstore/store.ts';
import type { Digest } from '../../image/digest.ts';
import type { Config } from '../config/config-schema.ts';

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
