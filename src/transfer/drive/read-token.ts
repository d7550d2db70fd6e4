import type { AttestedBlock } from '../../image/attested-block.ts';
import type { Digest } from '../../image/digest.ts';
import type { ReadKind } from '../contracts/blob-reader.ts';
import type { TransferError } from '../contracts/errors.ts';
import type { IncomingBlockRequest } from '../contracts/transport.ts';

/** A read of one block by this host, or by a peer, as the reducers carry it. */
export type ReadToken = LocalToken | IncomingBlockRequest;

/** A read by this host. */
export interface LocalToken {
  readonly digest: Digest;
  readonly kind: ReadKind;
  readonly resolve: (block: AttestedBlock) => void;
  readonly reject: (error: TransferError) => void;
}

/** Of an effect that only reads of this host have. */
export function asLocal(token: ReadToken): LocalToken {
  return token as LocalToken;
}

/** Of an effect that only reads of peers have. */
export function asPeer(token: ReadToken): IncomingBlockRequest {
  return token as IncomingBlockRequest;
}
