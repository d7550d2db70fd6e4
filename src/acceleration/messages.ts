import type { BlobRef } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import { CodedError } from '../util/errors.ts';

/** Whether an image is accelerated: `Default` makes block images of it, `None` does not. */
export const ACCELERATION_TYPES = ['Default', 'None'] as const;
/** One of `ACCELERATION_TYPES`. */
export type AccelerationType = (typeof ACCELERATION_TYPES)[number];

/** How far an image is. */
export const ACCELERATION_STATES = ['Preparing', 'Ready', 'Failed'] as const;
/** One of `ACCELERATION_STATES`. */
type AccelerationState = (typeof ACCELERATION_STATES)[number];

/**
 * Why something failed.
 *
 * - `reference`: the registry has no such image. `credentials`: it refuses to give or to take it.
 *   `registry`: it cannot be reached, or breaks its protocol.
 * - `disk`: no room for temporary files. `image`: no block image can be made of it. `tool`: a
 *   program is missing or failed. `other`: none of these.
 */
export const ACCELERATION_FAILURES = [
  'reference',
  'credentials',
  'registry',
  'disk',
  'image',
  'tool',
  'other',
] as const;
/** One of `ACCELERATION_FAILURES`. */
export type AccelerationFailureKind = (typeof ACCELERATION_FAILURES)[number];

/** Why something failed, for scripts and for people. */
export interface AccelerationFailure {
  readonly kind: AccelerationFailureKind;
  /** One line. */
  readonly reason: string;
}

/** How the index of the block images of a multi-platform image is named among them. */
export const INDEX_PLATFORM = 'index';

/** A block image of one platform, or the index of all. */
export interface BlockImage {
  /** `os/arch[/variant]`, or `INDEX_PLATFORM` */
  readonly platform: string;
  /** Of the manifest, or the index, of the original, which it names as its subject. */
  readonly sourceDigest: Digest;
  readonly digest: Digest;
}

/** What a conversion came to. */
export interface Conversion {
  readonly images: readonly BlockImage[];
  /** Tags of the kept layers that it used or made; absent where that is not known. */
  readonly layerTags?: readonly string[] | undefined;
}

/** The block images of one version of an image. */
export interface ReadyVersion extends Conversion {
  /** What the tag stood for: a manifest or an index. */
  readonly sourceDigest: Digest;
  /** Milliseconds since 1970. */
  readonly readyMs: number;
  /** How long the conversion took. */
  readonly seconds: number;
}

/** What a manifest is that this root put into a registry. */
export const BELONGING_KINDS = ['image', 'layer'] as const;

/** A manifest that a conversion of this root put into a repository, where it was not before. */
export interface MadeManifest {
  /** `image`: a block image, or an index of them. `layer`: one that is kept for later. */
  readonly kind: (typeof BELONGING_KINDS)[number];
  readonly digest: Digest;
  /** Of an image: the original. */
  readonly subject?: Digest;
  /** Of a layer. */
  readonly tag?: string;
  /** What it names that fills the registry. */
  readonly blobs: readonly BlobRef[];
}

/** A manifest in a registry that belongs to this root: it alone may remove it. */
export interface Belonging extends MadeManifest {
  /** `host[:port]/name` */
  readonly repository: string;
  /** Since when no image that is accelerated needs it; undefined while one does. */
  readonly idleMs?: number;
}

/** A belonging, as people and programs see it. */
export interface KeptThing extends Omit<Belonging, 'blobs'> {
  /** Of its blobs, which other manifests may name too. */
  readonly sizeBytes: number;
  /** When it is removed, if nothing needs it until then. */
  readonly removeMs?: number;
  /** Why it was not removed. */
  readonly reason?: string;
}

/** What this root keeps in registries. */
export interface Kept {
  readonly things: readonly KeptThing[];
  /** Of all their blobs, each counted once in a repository. */
  readonly sizeBytes: number;
}

/** How far a conversion is. */
export interface AccelerationProgress {
  readonly step: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** An image that is accelerated, or is being stopped from it. Times: milliseconds since 1970. */
export interface AcceleratedImage {
  /** `host[:port]/name:tag` */
  readonly image: string;
  readonly accelerationType: AccelerationType;
  readonly state: AccelerationState;
  /** What the tag stood for when the registry was last asked. */
  readonly sourceDigest?: Digest | undefined;
  /** The last version that was ready; it stays usable while the next one is prepared. */
  readonly ready?: ReadyVersion | undefined;
  /** Why the last attempt failed. */
  readonly failure?: AccelerationFailure | undefined;
  /** Attempts that failed in a row. */
  readonly failures: number;
  /** Of the conversion that runs. */
  readonly progress?: AccelerationProgress | undefined;
  readonly requestedMs: number;
  /** When the registry last told what the tag stands for. */
  readonly lookedMs?: number | undefined;
  /** When the last conversion started. */
  readonly startedMs?: number | undefined;
  /** When it ended. */
  readonly finishedMs?: number | undefined;
  /** When the tag is looked at again, or the attempt repeated. */
  readonly nextMs?: number | undefined;
}

/**
 * Why a request is refused. `full`: too many images. `not-a-tag`: the image has no tag that could
 * be watched. `not-kept`: the disk does not take it, so that a restart would forget it.
 */
export class AccelerationError extends CodedError<{
  readonly code: 'full' | 'not-a-tag' | 'not-kept';
}> {}

/** What the admin endpoint asks of acceleration. */
export interface AccelerationApi {
  /** Starts, repeats or ends the acceleration. Rejects with AccelerationError or RegistryError. */
  set(image: string, type: AccelerationType): Promise<AcceleratedImage>;
  /** In the order of the requests. */
  list(): readonly AcceleratedImage[];
  /** Of one repository (`host[:port]/name`), or of all. */
  kept(repository: string | undefined): Kept;
}
