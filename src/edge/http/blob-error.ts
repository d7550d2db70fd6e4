import { RegistryError } from '../../registry/errors.ts';
import type { ManifestRefusal, ManifestReply } from '../../tree/messages.ts';
import { PeerError } from '../../transfer/contracts/transport.ts';
import { CodedError, errorText } from '../../util/errors.ts';

/** Why the mirror cannot give something, in the terms of what its client is told. */
export interface BlobErrorDetail {
  /** `unavailable`: elsewhere it may be had now. `bad-content`: what came is not what its digest names. */
  readonly code: ManifestRefusal | 'bad-content';
  /** Of `unauthorized`: the WWW-Authenticate header of the registry; empty when there was none. */
  readonly challenge?: string;
  /** Of `rate-limited`: when to ask again, where the registry said. */
  readonly retryAfterMs?: number;
}

/** The mirror cannot give what a client asks for. */
export class BlobError extends CodedError<BlobErrorDetail> {}

/** Of a challenge: what a header of usual length holds, in visible characters. */
const CHALLENGE_LENGTH_MAX = 1000;

/** What an error from anywhere on the way to the registry means to the client of a mirror; the registry's own words are found among its causes. */
export function blobError(error: unknown): BlobError {
  for (let cause = error, depth = 0; cause instanceof Error && depth < 8; depth++) {
    if (cause instanceof BlobError) return cause;
    if (cause instanceof RegistryError) return ofRegistry(cause);
    cause = cause.cause;
  }
  const told = error instanceof CodedError ? toldBy(error) : undefined;
  return new BlobError(errorText(error), told ?? { code: 'unavailable' }, { cause: error });
}

/** The refusal of a root, as an error. */
export function refusalError(
  what: string,
  reply: Exclude<ManifestReply, { outcome: 'found' }>,
): BlobError {
  const { outcome, challenge, retryAfterMs } = reply;
  const text = `${what} was not given by the registry, says a root: ${outcome}`;
  return new BlobError(text, { code: outcome, challenge, retryAfterMs });
}

/** The same for a peer to read. */
export function refusalOf(error: unknown): ManifestReply {
  const { code, challenge = '', retryAfterMs = 0 } = blobError(error).detail;
  return { outcome: code === 'bad-content' ? 'unavailable' : code, challenge, retryAfterMs };
}

function ofRegistry(error: RegistryError): BlobError {
  const { detail } = error;
  const fail = (told: BlobErrorDetail): BlobError =>
    new BlobError(error.message, told, { cause: error });
  switch (detail.code) {
    case 'not-found':
    case 'invalid-reference':
    case 'no-platform':
      return fail({ code: 'not-found' });
    case 'unauthorized':
      return fail({ code: 'unauthorized', challenge: visible(detail.challenge ?? '') });
    case 'denied':
      return fail({ code: 'denied' });
    case 'rate-limited':
      return fail({ code: 'rate-limited', retryAfterMs: detail.retryAfterMs ?? 0 });
    case 'digest-mismatch':
      return fail({ code: 'bad-content' });
    default:
      return fail({ code: 'unavailable' });
  }
}

/** Errors of other parts that say what clients are told by their code. */
function toldBy(error: CodedError<{ readonly code: string }>): BlobErrorDetail | undefined {
  // A peer that refuses us says nothing about the registry.
  if (error instanceof PeerError) return undefined;
  const { challenges } = error.detail as { challenges?: readonly string[] };
  switch (error.code) {
    case 'unauthorized':
      return { code: 'unauthorized', challenge: visible(challenges?.join(', ') ?? '') };
    case 'denied':
      return { code: 'denied' };
    case 'not-found':
      return { code: 'not-found' };
    default:
      return undefined;
  }
}

function visible(text: string): string {
  return text.replaceAll(/[^ -~]/g, '').slice(0, CHALLENGE_LENGTH_MAX);
}
