import { RegistryError } from '../../registry/errors.ts';
import { isPassing } from '../../registry/http/retry.ts';
import { DeadlineError } from '../../runtime/deadline.ts';
import type { OpenAnswer, OpenRefusal, ProbeResult } from '../../transfer/host/open-blob-types.ts';
import type { OpenReply } from '../../tree/messages.ts';
import { unreachable } from '../../util/assert.ts';
import { AccessError, isNo, notOpened } from './access-error.ts';
import type { BlobAddress } from './contract.ts';

/** Why this host itself cannot connect, whatever the origin does. */
const OWN_BOUNDS = new Set(['EADDRNOTAVAIL', 'EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM']);

/** What a root's reply to OPEN is to the reducer. */
export function answerOf(reply: OpenReply): OpenAnswer {
  if (reply.outcome === 'open' || reply.outcome === 'no-way') return reply;
  const { outcome: code, challenge, retryAfterMs } = reply;
  const challenges = challenge === '' ? [] : [challenge];
  switch (code) {
    case 'unauthorized':
    case 'denied':
      return { outcome: 'refused', refusal: { code, challenges } };
    case 'not-found':
      return { outcome: 'refused', refusal: { code } };
    case 'rate-limited':
      return { outcome: 'refused', refusal: { code, retryAfterMs } };
    case 'unavailable':
      return { outcome: 'refused', refusal: { code: 'unchecked', silent: [] } };
    default:
      return unreachable(code);
  }
}

/** What the failed question to an origin about a right says of it. */
export function probeFailure(error: unknown): ProbeResult {
  if (isOutage(error)) return { outcome: 'unreachable' };
  return { outcome: 'refused', refusal: refusalOfFailure(error) };
}

/**
 * Whether the origin is away: no connection, silence, or an error of its own (5xx). Whatever a
 * client can bring about itself is no outage.
 */
function isOutage(error: unknown): boolean {
  if (error instanceof AccessError) {
    return error.detail.code === 'unchecked' && (error.detail.status ?? 0) >= 500;
  }
  if (!(error instanceof RegistryError)) return error instanceof DeadlineError;
  const { code } = Object(error.cause) as { readonly code?: unknown };
  return (
    error.code === 'timeout' || (error.code === 'unavailable' && !OWN_BOUNDS.has(String(code)))
  );
}

function refusalOfFailure(error: unknown): OpenRefusal {
  if (error instanceof AccessError && error.code !== 'unchecked') return refusalOfError(error);
  if (error instanceof RegistryError && error.detail.code === 'rate-limited') {
    return { code: 'rate-limited', retryAfterMs: error.detail.retryAfterMs ?? 0 };
  }
  return isLasting(error) ? { code: 'unsound', why: error.message } : { code: 'undecided' };
}

/** Whether asking again soon would bring the same: a status without a meaning here, a rule. */
function isLasting(error: unknown): error is AccessError | RegistryError {
  if (error instanceof AccessError) return isNo(error);
  return error instanceof RegistryError && error.code === 'protocol' && !isPassing(error);
}

/** The refusal that an error of a client's way stands for. */
export function refusalOfError({ detail, message }: AccessError): OpenRefusal {
  switch (detail.code) {
    case 'unauthorized':
    case 'denied':
    case 'rate-limited':
      return detail;
    case 'not-found':
      return { code: 'not-found' };
    case 'other-content':
      return { code: 'other-content', sizeBytes: 0 };
    case 'unsound':
      return { code: 'unsound', why: message };
    case 'unchecked':
      return { code: 'unchecked', silent: [] };
    default:
      return unreachable(detail);
  }
}

/** A refusal as the error of the client's request. */
export function accessError(refusal: OpenRefusal, { registry }: BlobAddress): AccessError {
  switch (refusal.code) {
    case 'unauthorized':
    case 'denied': {
      const { code, challenges } = refusal;
      const status = code === 'unauthorized' ? 401 : 403;
      return new AccessError(notOpened(registry, status), { code, challenges });
    }
    case 'not-found':
      return new AccessError(`${registry} has no such blob`, { code: 'not-found' });
    case 'rate-limited': {
      const { code, retryAfterMs } = refusal;
      return new AccessError(`${registry} asks for patience`, { code, retryAfterMs });
    }
    case 'other-content':
      return new AccessError(`${registry} has something else than the blob at this URL`, {
        code: 'other-content',
      });
    case 'unsound':
      return new AccessError(refusal.why, { code: 'unsound' });
    case 'undecided': {
      const what = `the right to read was not checked: ${registry} was not asked`;
      return new AccessError(what, { code: 'unchecked' });
    }
    case 'unchecked': {
      const silent = refusal.silent.length > 0 ? refusal.silent.join(', ') : registry;
      const what = `the right to read could not be checked: no answer from ${silent}`;
      return new AccessError(what, { code: 'unchecked' });
    }
    default:
      return unreachable(refusal);
  }
}
