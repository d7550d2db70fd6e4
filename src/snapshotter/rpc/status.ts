import { status } from '@grpc/grpc-js';
import { DeadlineError } from '../../runtime/deadline.ts';
import { CodedError, errorText } from '../../util/errors.ts';
import type { SnapshotErrorDetail } from '../errors.ts';

/** What a call ends with. */
export interface RpcFailure {
  readonly code: status;
  /** For people: containerd shows it in the event of a container, or of a pull. */
  readonly details: string;
  /** Whether this program is wrong, and not its input or surroundings. */
  readonly isBug: boolean;
}

const OF_SNAPSHOTS: Readonly<Record<SnapshotErrorDetail['code'], status>> = {
  'not-found': status.NOT_FOUND,
  'already-exists': status.ALREADY_EXISTS,
  invalid: status.INVALID_ARGUMENT,
  precondition: status.FAILED_PRECONDITION,
  'too-many': status.RESOURCE_EXHAUSTED,
  metadata: status.UNAVAILABLE,
};

/** What devices, images, registries and the cluster say, by their codes. */
const OF_OTHERS: Readonly<Record<string, status>> = {
  'not-authorized': status.PERMISSION_DENIED,
  unauthorized: status.PERMISSION_DENIED,
  denied: status.PERMISSION_DENIED,
  'not-permitted': status.FAILED_PRECONDITION,
  'unsupported-filesystem': status.FAILED_PRECONDITION,
  'not-believed': status.FAILED_PRECONDITION,
  damaged: status.DATA_LOSS,
  'not-a-layer': status.DATA_LOSS,
  busy: status.FAILED_PRECONDITION,
  truncated: status.DATA_LOSS,
  'out-of-range': status.DATA_LOSS,
  unsupported: status.FAILED_PRECONDITION,
  unreadable: status.UNAVAILABLE,
  unreachable: status.UNAVAILABLE,
  unavailable: status.UNAVAILABLE,
  'not-running': status.UNAVAILABLE,
  overloaded: status.UNAVAILABLE,
  deadline: status.UNAVAILABLE,
  timeout: status.UNAVAILABLE,
  cancelled: status.CANCELLED,
  'too-many-mounts': status.RESOURCE_EXHAUSTED,
  // Of the disk.
  'no-space': status.RESOURCE_EXHAUSTED,
  ENOSPC: status.RESOURCE_EXHAUSTED,
  EDQUOT: status.RESOURCE_EXHAUSTED,
};

/** The answer to a call that failed. */
export function failureOf(error: unknown): RpcFailure {
  const details = errorText(error);
  if (error instanceof DeadlineError) return { code: status.UNAVAILABLE, details, isBug: false };
  if (error instanceof Error && error.name === 'AbortError') {
    return { code: status.CANCELLED, details, isBug: false };
  }
  const name = String((error as { code?: unknown } | undefined)?.code);
  const code = OF_SNAPSHOTS[name as SnapshotErrorDetail['code']] ?? OF_OTHERS[name];
  if (code !== undefined) return { code, details, isBug: false };
  const isOperating = error instanceof CodedError || /^E[A-Z0-9]+$/.test(name);
  return { code: status.INTERNAL, details, isBug: !isOperating };
}
