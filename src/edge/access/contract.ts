import type { BlobOrigin, BlobRef } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';

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
 * Finds blobs by digest, wherever they are known: in the store, at a root, at the registry. Rejects
 * with CodedErrors; see `statusOf()` in overlaybd/answer.ts for the codes that become other answers
 * than 502.
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
