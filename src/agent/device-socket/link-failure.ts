import { BlockStoreError } from '../../blockstore/errors.ts';
import { LinkError, type LinkErrorCode } from '../../device/link/errors.ts';
import type { LinkFailure } from '../../device/link/frames.ts';
import { BlobError } from '../../edge/http/blob-error.ts';
import { ImageError } from '../../image/errors.ts';
import { RegistryError } from '../../registry/errors.ts';
import { DeadlineError } from '../../runtime/deadline.ts';
import { TransferError } from '../../transfer/contracts/errors.ts';
import { OriginError, type OriginErrorDetail } from '../../transfer/contracts/origin.ts';
import { PeerError } from '../../transfer/contracts/transport.ts';
import { unreachable } from '../../util/assert.ts';
import { errorText } from '../../util/errors.ts';

/** What a device process is told of an error of the agent; undefined for a defect. */
export function linkFailureOf(error: unknown): LinkFailure | undefined {
  const code = codeOf(error);
  return code === undefined ? undefined : { code, text: errorText(error) };
}

function codeOf(error: unknown): LinkErrorCode | undefined {
  if (error instanceof LinkError) return error.code;
  if (error instanceof TransferError) return ofTransfer(error);
  if (error instanceof OriginError) return ofOrigin(error.code);
  if (error instanceof BlobError) return ofBlob(error.code);
  if (error instanceof ImageError) return error.code === 'unreadable' ? 'unreachable' : 'damaged';
  if (error instanceof RegistryError) return ofRegistry(error.code);
  if (error instanceof PeerError) return 'unreachable';
  if (error instanceof DeadlineError) return 'unreachable';
  if (error instanceof BlockStoreError) return 'failed';
  return undefined;
}

function ofTransfer({ detail }: TransferError): LinkErrorCode {
  switch (detail.code) {
    case 'deadline':
      return 'unreachable';
    case 'origin':
      return ofOrigin(detail.no);
    case 'range':
    case 'size-differs':
      return 'invalid';
    case 'unknown-blob':
    case 'overloaded':
    case 'cancelled':
      return detail.code;
    default:
      return unreachable(detail);
  }
}

function ofOrigin(code: OriginErrorDetail['code']): LinkErrorCode {
  switch (code) {
    case 'not-found':
      return 'not-found';
    case 'refused':
      return 'not-authorized';
    case 'protocol':
    case 'bad-content':
      return 'damaged';
    case 'limited':
    case 'unavailable':
      return 'unreachable';
    default:
      return unreachable(code);
  }
}

function ofBlob(code: BlobError['code']): LinkErrorCode {
  switch (code) {
    case 'not-found':
      return 'not-found';
    case 'unauthorized':
    case 'denied':
      return 'not-authorized';
    case 'bad-content':
      return 'damaged';
    case 'rate-limited':
    case 'timeout':
    case 'unavailable':
    case 'unchecked':
      return 'unreachable';
    case 'overloaded':
      return 'overloaded';
    case 'internal':
      return 'failed';
    default:
      return unreachable(code);
  }
}

/** The registry itself is asked by others: its errors are those of names. */
function ofRegistry(code: RegistryError['code']): LinkErrorCode {
  return code === 'invalid-reference' ? 'invalid' : 'failed';
}
