import { RegistryError } from '../registry/errors.ts';
import { DeadlineError } from '../runtime/deadline.ts';
import { TransferError } from '../transfer/contracts/errors.ts';
import { OriginError } from '../transfer/contracts/origin.ts';
import { PeerError } from '../transfer/contracts/transport.ts';
import { TreeError } from '../tree/errors.ts';
import type { ManifestReply, Refusal, RegistryRefusal } from '../tree/messages.ts';
import { CodedError } from '../util/errors.ts';
import { AccessError } from './access/access-error.ts';
import { BlobError, type BlobErrorDetail } from './http/blob-error.ts';

/** Of a challenge: what a header of usual length holds, in visible characters. */
const CHALLENGE_LENGTH_MAX = 1000;

/** Of what is wrong with a manifest, as a peer is told it. */
const WHY_LENGTH_MAX = 500;

/** What an error that ends a client's request means to that client, by its class and code. */
export function clientDetail(error: unknown): BlobErrorDetail {
  if (error instanceof BlobError) return error.detail;
  if (error instanceof AccessError) return ofAccess(error.detail);
  if (error instanceof RegistryError) return ofRegistry(error.detail);
  if (error instanceof TransferError) return { code: ofTransfer(error.detail) };
  if (error instanceof OriginError) return { code: ofOrigin(error.code) };
  if (error instanceof PeerError) return { code: ofPeer(error.code) };
  if (error instanceof TreeError) return { code: ofTree(error.code) };
  if (error instanceof DeadlineError) return { code: 'timeout' };
  return { code: error instanceof CodedError ? 'unavailable' : 'internal' };
}

/**
 * The same as an error. What the registry said is found among the causes: it tells a client more
 * than what became of it on the way.
 */
export function blobError(error: unknown): BlobError {
  for (let cause = error, depth = 0; cause instanceof Error && depth < 8; depth++) {
    if (cause instanceof BlobError) return cause;
    if (cause instanceof RegistryError || cause instanceof AccessError) {
      return new BlobError(cause.message, clientDetail(cause), { cause });
    }
    cause = cause.cause;
  }
  return new BlobError(clientText(error), clientDetail(error), { cause: error });
}

/**
 * What a client may read about an error: of a CodedError the whole text, with the last reason
 * behind it; of others that there was one.
 */
export function clientText(error: unknown): string {
  if (error instanceof DeadlineError) return error.message;
  if (!(error instanceof CodedError)) return 'internal error; the log of the agent says more';
  const { message, cause } = error;
  const isNew = cause instanceof CodedError && !message.includes(cause.message);
  return isNew ? `${message}: ${clientText(cause)}` : message;
}

/** The refusal of a root, as an error. */
export function refusalError(
  what: string,
  reply: Exclude<ManifestReply, { outcome: 'found' }>,
): BlobError {
  const text = `${what} was not given by the registry, says a root: `;
  if (reply.outcome === 'bad-content') {
    return new BlobError(`${text}${reply.why}`, { code: 'bad-content' });
  }
  const { outcome, challenge, retryAfterMs } = reply;
  const challenges = challenge === '' ? [] : [challenge];
  return new BlobError(`${text}${outcome}`, { code: outcome, challenges, retryAfterMs });
}

/** An error as what a root says of a blob to a peer. */
export function refusalOf(error: unknown): Refusal {
  const { code, challenges = [], retryAfterMs = 0 } = blobError(error).detail;
  return { outcome: refusalCode(code), challenge: challenges.join(', '), retryAfterMs };
}

/** The same of a manifest. */
export function manifestRefusalOf(error: unknown): Exclude<ManifestReply, { outcome: 'found' }> {
  const { code, message } = blobError(error);
  if (code !== 'bad-content') return refusalOf(error);
  return { outcome: code, why: visible(message).slice(0, WHY_LENGTH_MAX) };
}

/** The code in the fewer words that peers have for it. */
export function refusalCode(code: BlobErrorDetail['code']): RegistryRefusal {
  switch (code) {
    case 'not-found':
    case 'unauthorized':
    case 'denied':
    case 'rate-limited':
    case 'unavailable':
      return code;
    case 'bad-content':
    case 'internal':
    case 'overloaded':
    case 'timeout':
    case 'unchecked':
      return 'unavailable';
  }
}

function ofAccess(detail: AccessError['detail']): BlobErrorDetail {
  switch (detail.code) {
    case 'unauthorized':
    case 'denied':
      return { code: detail.code, challenges: detail.challenges.map(visible) };
    case 'not-found':
    case 'unchecked':
      return { code: detail.code };
    case 'rate-limited':
      return { code: detail.code, retryAfterMs: detail.retryAfterMs };
    case 'other-content':
      return { code: 'bad-content' };
    case 'unsound':
      return { code: 'unavailable' };
  }
}

function ofRegistry(detail: RegistryError['detail']): BlobErrorDetail {
  switch (detail.code) {
    case 'not-found':
    case 'invalid-reference':
    case 'no-platform':
      return { code: 'not-found' };
    case 'unauthorized': {
      const { challenge = '' } = detail;
      return { code: 'unauthorized', challenges: challenge === '' ? [] : [visible(challenge)] };
    }
    case 'denied':
    case 'timeout':
    case 'overloaded':
      return { code: detail.code };
    case 'rate-limited':
      return { code: 'rate-limited', retryAfterMs: detail.retryAfterMs ?? 0 };
    case 'digest-mismatch':
      return { code: 'bad-content' };
    case 'protocol':
      return { code: detail.fault === 'no-manifest' ? 'bad-content' : 'unavailable' };
    case 'unavailable':
    case 'too-large':
    case 'closed':
      return { code: 'unavailable' };
  }
}

function ofTransfer(detail: TransferError['detail']): BlobErrorDetail['code'] {
  switch (detail.code) {
    case 'origin':
      return ofOrigin(detail.no);
    case 'deadline':
      return 'timeout';
    case 'overloaded':
      return 'overloaded';
    case 'unknown-blob':
    case 'range':
    case 'size-differs':
    case 'cancelled':
      return 'unavailable';
  }
}

/** `refused`: the credentials of this host, which say nothing of the client's. */
function ofOrigin(code: OriginError['code']): BlobErrorDetail['code'] {
  switch (code) {
    case 'not-found':
      return 'not-found';
    case 'bad-content':
      return 'bad-content';
    case 'protocol':
    case 'refused':
    case 'limited':
    case 'unavailable':
      return 'unavailable';
  }
}

/** A peer that has not got something, or refuses us, says nothing about the registry. */
function ofPeer(code: PeerError['code']): BlobErrorDetail['code'] {
  switch (code) {
    case 'timeout':
      return 'timeout';
    case 'overloaded':
      return 'overloaded';
    case 'unreachable':
    case 'unknown-blob':
    case 'not-found':
    case 'hops':
    case 'protocol':
    case 'refused':
    case 'cancelled':
      return 'unavailable';
  }
}

function ofTree(code: TreeError['code']): BlobErrorDetail['code'] {
  switch (code) {
    case 'full':
      return 'overloaded';
    case 'invalid':
      return 'unavailable';
  }
}

function visible(text: string): string {
  return text.replaceAll(/[^ -~]/g, '').slice(0, CHALLENGE_LENGTH_MAX);
}
