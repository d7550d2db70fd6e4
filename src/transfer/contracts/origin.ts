import type { BlobOrigin, BlobRef } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { ResolveReply } from '../../tree/messages.ts';
import { CodedError } from '../../util/errors.ts';
import type { Scatter } from '../../util/scatter.ts';

export type { ResolveReply };

/**
 * Why the registry did not give what was asked.
 *
 * `not-found`, `refused` (no valid credentials), `protocol` (two unsound answers), `bad-content`
 * (twice other bytes than the digest names) and `limited` (it wants to be left alone for longer
 * than anybody waits) will not change if asked again soon; `unavailable` may.
 */
export type OriginErrorDetail =
  | { readonly code: 'not-found' }
  | { readonly code: 'refused' }
  | { readonly code: 'protocol' }
  | { readonly code: 'bad-content' }
  | { readonly code: 'limited' }
  | { readonly code: 'unavailable' };

/** What asking again soon will not change. */
export type OriginNo = Exclude<OriginErrorDetail['code'], 'unavailable'>;

/** A read from a registry that failed; see `OriginErrorDetail`. */
export class OriginError extends CodedError<OriginErrorDetail> {}

/** A blob, and where it is read. */
export interface OriginBlob extends BlobRef {
  readonly origin: BlobOrigin;
  /** Only the ways of this host's clients lead to it: they are tried first. */
  readonly isOwnWay?: boolean;
}

/** What a registry says of a blob. */
export interface BlobStat {
  readonly sizeBytes: number;
  /** The registry gives it to anybody; undefined when that could not be found out. */
  readonly isPublic: boolean | undefined;
}

/** What an image reference names, by its text alone. */
export interface NamedImage {
  readonly origin: BlobOrigin;
  /** Of a manifest, or of an index that lists it; undefined of a tag. */
  readonly digest: Digest | undefined;
}

/** Reads from registries. All calls reject with OriginError. */
export interface Origin {
  /**
   * Fills `target` with the bytes of the blob from `offset` on, as they come. Nothing is written to
   * it after the call has settled.
   */
  readInto(blob: OriginBlob, offset: number, target: Scatter, signal: AbortSignal): Promise<void>;
  /** Size of a blob, by the registry's own word, and whether anybody may read it. */
  stat(digest: Digest, origin: BlobOrigin, signal: AbortSignal): Promise<BlobStat>;
  /** Reads an image reference, and asks nobody. Throws OriginError. */
  named(reference: string): NamedImage;
  /** Resolves an image reference to its manifest. */
  resolve(reference: string, signal: AbortSignal): Promise<ResolveReply>;
  /**
   * Whether the configuration believes this source: its bytes then count for every host that asks
   * for the digest.
   */
  believes(origin: BlobOrigin): boolean;
  /**
   * The content read of a blob there did not match its digest: later reads use another source where
   * one exists.
   */
  distrust?(origin: BlobOrigin): void;
}
