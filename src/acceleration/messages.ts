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

/** A block image of one platform. */
export interface BlockImage {
  /** `os/arch[/variant]` */
  readonly platform: string;
  /** Of the manifest of the original, which the block image names as its subject. */
  readonly sourceDigest: Digest;
  readonly digest: Digest;
}

/** The block images of one version of an image. */
export interface ReadyVersion {
  /** What the tag stood for: a manifest or an index. */
  readonly sourceDigest: Digest;
  readonly images: readonly BlockImage[];
  /** Milliseconds since 1970. */
  readonly readyMs: number;
  /** How long the conversion took. */
  readonly seconds: number;
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
}
