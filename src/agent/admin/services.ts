import type { AccelerationApi } from '../../acceleration/messages.ts';
import type { BlobUsage, Evicted } from '../../blockstore/store.ts';
import type { Digest } from '../../image/digest.ts';
import type { PreheatService } from '../../preheat/messages.ts';
import type {
  AgentStatus,
  ContainerDevice,
  HeldBlob,
  MountedImage,
  ShownHost,
  TreeStatus,
} from './answers.ts';

/** What probes ask of a process. Answers at once, from memory. */
export interface Readiness {
  /** Why the process cannot serve yet, or undefined when it can. One line. */
  notReady(): string | undefined;
  /** What is wrong all the same. One line each. */
  notices?(): readonly string[];
}

/** Places in trees, and who the hosts in them are. */
export interface ShownTrees {
  readonly trees: readonly TreeStatus[];
  readonly hosts: readonly ShownHost[];
}

/** What the admin endpoint tells about the agent: from memory, but for names of other hosts. */
export interface AgentFacts {
  status(): Promise<AgentStatus>;
  /** Of one blob, or of all. */
  tree(digest?: Digest): Promise<ShownTrees>;
  /** What the store holds. */
  blobs(): readonly HeldBlob[];
}

/** Mounts images. Rejects with errors that status-of.ts turns into answers. */
export interface MountService {
  /** `image` is `docker://host[:port]/name:tag`; `dir` is absolute. */
  mount(image: string, dir: string, signal: AbortSignal): Promise<MountedImage>;
  /** Does nothing when the agent has mounted nothing there. */
  unmount(dir: string): Promise<void>;
  list(): readonly MountedImage[];
}

/**
 * What `xylem store` shows and changes. Rejects with BlockStoreError, and with what resolving an
 * image rejects with.
 */
export interface StoreService {
  usage(): readonly BlobUsage[];
  /**
   * `what` is a blob's digest, or `docker://host[:port]/name:tag` for the blobs of an image, its
   * config included; what it came to.
   */
  pin(what: string): Promise<readonly Digest[]>;
  unpin(what: string): Promise<readonly Digest[]>;
  /** Evicts down to `targetBytes`, or to the low watermark of the quota. */
  gc(targetBytes: number | undefined): Promise<Evicted>;
}

/** The devices of containers. Answers at once, from memory. */
export interface DeviceList {
  list(): readonly ContainerDevice[];
}

/** The parts of a process that the admin endpoint asks. */
export interface Services {
  readonly status: Readiness;
  /** Absent where this process is no agent. */
  readonly agent?: AgentFacts;
  /** Absent where this process has no devices of containers. */
  readonly devices?: DeviceList;
  readonly metrics: { text(): Promise<string> };
  /** Absent where this process serves no block devices. */
  readonly mounts?: MountService;
  /** Absent where this process keeps no blocks. */
  readonly store?: StoreService;
  /** Absent where this process accelerates no images. */
  readonly acceleration?: AccelerationApi | undefined;
  /** Absent where this process is no agent of a cluster. */
  readonly preheats?: PreheatService;
}
