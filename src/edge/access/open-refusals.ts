import type { OpenAnswer, OpenRefusal, ProbeResult } from '../../transfer/host/open-blob-types.ts';
import type { OpenReply } from '../../tree/messages.ts';
import { unreachable } from '../../util/assert.ts';
import { AccessError } from './access-error.ts';
import type { BlobAddress } from './contract.ts';

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
  if (!(error instanceof AccessError) || error.code === 'unchecked') {
    return { outcome: 'unreachable' };
  }
  return { outcome: 'refused', refusal: refusalOfError(error) };
}

/** The refusal that an error of a client's way stands for. */
export function refusalOfError({ detail }: AccessError): OpenRefusal {
  switch (detail.code) {
    case 'unauthorized':
    case 'denied':
    case 'rate-limited':
      return detail;
    case 'not-found':
      return { code: 'not-found' };
    case 'other-content':
      return { code: 'other-content', sizeBytes: 0 };
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
      const what = `${registry} answered ${status} to the credentials of this request`;
      return new AccessError(what, { code, challenges });
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
    case 'unchecked': {
      const silent = refusal.silent.length > 0 ? refusal.silent.join(', ') : registry;
      const what = `the right to read could not be checked: no answer from ${silent}`;
      return new AccessError(what, { code: 'unchecked' });
    }
    default:
      return unreachable(refusal);
  }
}
