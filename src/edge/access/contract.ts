import type { BlobOrigin } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { OpenedBlob } from '../../transfer/host/open-blob-types.ts';
import type { Way } from './ways.ts';

/** A blob as a URL of its origin names it. */
export interface BlobAddress extends BlobOrigin {
  readonly scheme: 'http' | 'https';
  /** Empty at a storage, whose URL does not tell it. */
  readonly repository: string;
  /**
   * The whole URL as the client sent it, percent-encoding and signature included. Secret: it may be
   * the permission itself.
   */
  readonly url: string;
}

/** A local client's request for a blob, and what it shows for it. */
export interface GateRequest {
  readonly digest: Digest;
  readonly address: BlobAddress;
  readonly authorization: string | undefined;
  /** The origin has just given one byte to this request's right, and told this size. */
  readonly shownBytes?: number;
  /** How long to ask again while neither roots nor origin answer, in milliseconds. Default: 0. */
  readonly patienceMs?: number;
  readonly signal: AbortSignal;
}

/** A blob that a client may read, and the client's own way to it. */
export interface GrantedBlob extends OpenedBlob {
  readonly way: Way;
}

/**
 * Decides whether a local client may read a blob, and what the blob is: see `OpenBlobs` in
 * transfer/host/open-blobs.ts.
 */
export interface BlobGate {
  /**
   * Rejects with AccessError, whose codes become 401, 403, 404, 429, 502 or 503, or with the
   * signal's reason.
   */
  open(request: GateRequest): Promise<GrantedBlob>;
  /** What `open()` would give at once, without asking anybody. */
  opened(request: Omit<GateRequest, 'signal'>): OpenedBlob | undefined;
}
