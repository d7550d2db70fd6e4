import { CodedError } from '../../util/errors.ts';
import type { OriginNo } from './origin.ts';

/**
 * Why a local read failed.
 *
 * `origin`: the registry said a definite no, and the reader wants to know at once. `range`: the
 * range lies outside every blob. `size-differs`: the blob is known with another size,
 * `knownSizeBytes`. `overloaded`: a bound is reached; a later read may work.
 */
export type TransferErrorDetail =
  | { readonly code: 'deadline'; readonly waitedMs: number }
  | { readonly code: 'unknown-blob' }
  | { readonly code: 'range' }
  | { readonly code: 'size-differs'; readonly knownSizeBytes: number }
  | { readonly code: 'overloaded' }
  | { readonly code: 'origin'; readonly no: OriginNo }
  | { readonly code: 'cancelled' };

/** A read of blob bytes that could not be answered. */
export class TransferError extends CodedError<TransferErrorDetail> {}
