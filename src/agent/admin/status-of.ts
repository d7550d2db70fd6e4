import { AccelerationError } from '../../acceleration/messages.ts';
import { BlockStoreError } from '../../blockstore/errors.ts';
import { DeviceError } from '../../device/errors.ts';
import { LinkError, type LinkErrorCode } from '../../device/link/errors.ts';
import { ImageError } from '../../image/errors.ts';
import { PreheatError } from '../../preheat/messages.ts';
import { RegistryError } from '../../registry/errors.ts';
import { TransferError } from '../../transfer/contracts/errors.ts';
import { OriginError } from '../../transfer/contracts/origin.ts';
import { PeerError } from '../../transfer/contracts/transport.ts';
import { unreachable } from '../../util/assert.ts';
import { RequestError } from './errors.ts';

/**
 * The HTTP status of an error of the admin endpoint or of a service behind it; 500 for a defect.
 */
export function statusOf(error: unknown): number {
  if (error instanceof RequestError) return ofRequest(error.code);
  if (error instanceof DeviceError) return ofDevice(error.code);
  if (error instanceof LinkError) return ofLink(error.code);
  if (error instanceof BlockStoreError) return ofStore(error.code);
  if (error instanceof PreheatError) return ofPreheat(error.code);
  if (error instanceof AccelerationError) return ofAcceleration(error.code);
  if (error instanceof RegistryError) return ofRegistry(error.code);
  if (error instanceof OriginError) return ofOrigin(error.code);
  if (error instanceof PeerError) return ofPeer(error.code);
  if (error instanceof TransferError) return ofTransfer(error.code);
  if (error instanceof ImageError) return ofImage(error.code);
  return 500;
}

function ofRequest(code: RequestError['code']): number {
  switch (code) {
    case 'bad-request':
      return 400;
    case 'unauthorized':
      return 401;
    case 'forbidden':
      return 403;
    case 'not-found':
      return 404;
    case 'too-large':
      return 413;
    case 'media-type':
      return 415;
    case 'no-agent':
    case 'no-devices':
    case 'no-store':
    case 'no-preheats':
    case 'no-acceleration':
      return 501;
    case 'not-ready':
      return 503;
    case 'timeout':
      return 504;
    default:
      return unreachable(code);
  }
}

function ofDevice(code: DeviceError['code']): number {
  switch (code) {
    case 'target-not-usable':
      return 400;
    case 'target-not-allowed':
    case 'not-permitted':
      return 403;
    case 'already-mounted':
    case 'busy':
      return 409;
    case 'damaged':
    case 'unsupported-filesystem':
      return 422;
    case 'failed':
      return 500;
    case 'too-many-mounts':
    case 'not-running':
      return 503;
    case 'timeout':
      return 504;
    default:
      return unreachable(code);
  }
}

function ofLink(code: LinkErrorCode): number {
  switch (code) {
    case 'invalid':
      return 400;
    case 'not-authorized':
      return 403;
    case 'not-found':
    case 'unknown-blob':
      return 404;
    case 'failed':
      return 500;
    case 'damaged':
      return 502;
    case 'overloaded':
    case 'cancelled':
      return 503;
    case 'unreachable':
      return 504;
    default:
      return unreachable(code);
  }
}

function ofStore(code: BlockStoreError['code']): number {
  switch (code) {
    case 'busy':
    case 'too-many-pins':
      return 409;
    case 'read-only':
    case 'io':
    case 'size-mismatch':
    case 'invalid-block':
    case 'version':
    case 'locked':
      return 500;
    case 'stopped':
      return 503;
    case 'no-space':
    case 'quota':
    case 'too-many-blobs':
      return 507;
    default:
      return unreachable(code);
  }
}

function ofPreheat(code: PreheatError['code']): number {
  switch (code) {
    case 'refused':
      return 403;
    case 'not-found':
      return 404;
    case 'full':
    case 'unreachable':
      return 503;
    default:
      return unreachable(code);
  }
}

function ofAcceleration(code: AccelerationError['code']): number {
  switch (code) {
    case 'not-a-tag':
      return 400;
    case 'full':
      return 503;
    case 'not-kept':
      return 507;
    default:
      return unreachable(code);
  }
}

function ofRegistry(code: RegistryError['code']): number {
  switch (code) {
    case 'invalid-reference':
      return 400;
    case 'unauthorized':
    case 'denied':
      return 403;
    case 'not-found':
      return 404;
    case 'protocol':
    case 'digest-mismatch':
    case 'too-large':
    case 'no-platform':
      return 502;
    case 'rate-limited':
    case 'unavailable':
    case 'overloaded':
    case 'closed':
      return 503;
    case 'timeout':
      return 504;
    default:
      return unreachable(code);
  }
}

function ofOrigin(code: OriginError['code']): number {
  switch (code) {
    case 'refused':
      return 403;
    case 'not-found':
      return 404;
    case 'protocol':
    case 'bad-content':
      return 502;
    case 'limited':
    case 'unavailable':
      return 503;
    default:
      return unreachable(code);
  }
}

function ofPeer(code: PeerError['code']): number {
  switch (code) {
    case 'refused':
      return 403;
    case 'not-found':
      return 404;
    case 'unknown-blob':
    case 'hops':
    case 'protocol':
      return 502;
    case 'unreachable':
    case 'overloaded':
    case 'cancelled':
      return 503;
    case 'timeout':
      return 504;
    default:
      return unreachable(code);
  }
}

function ofTransfer(code: TransferError['code']): number {
  switch (code) {
    case 'unknown-blob':
    case 'range':
      return 500;
    case 'size-differs':
    case 'origin':
      return 502;
    case 'overloaded':
    case 'cancelled':
      return 503;
    case 'deadline':
      return 504;
    default:
      return unreachable(code);
  }
}

function ofImage(code: ImageError['code']): number {
  switch (code) {
    case 'not-a-layer':
    case 'truncated':
    case 'damaged':
    case 'out-of-range':
    case 'unsupported':
      return 422;
    case 'unreadable':
      return 503;
    default:
      return unreachable(code);
  }
}
