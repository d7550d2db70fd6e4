import { CodedError } from '../../util/errors.ts';

/** Why a local read failed. */
export type TransferErrorDetail =
  | { readonly code: 'deadline'; readonly waitedMs: number }
  | { readonly code: 'unknown-blob' }
  | { readonly code: 'range' }
  | { readonly code: 'overloaded' }
  | { readonly code: 'cancelled' };

/** A read of blob bytes that could not be answered. */
export class TransferError extends CodedError<TransferErrorDetail> {}
