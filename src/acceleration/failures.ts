import { RegistryError } from '../registry/errors.ts';
import { CodedError, errorText } from '../util/errors.ts';
import type { AccelerationFailure, AccelerationFailureKind } from './messages.ts';

/** By the codes of RegistryError, ConvertError and DiskError. */
const KINDS: Readonly<Record<string, AccelerationFailureKind>> = {
  'invalid-reference': 'reference',
  'not-found': 'reference',
  unauthorized: 'credentials',
  denied: 'credentials',
  'rate-limited': 'registry',
  unavailable: 'registry',
  timeout: 'registry',
  protocol: 'registry',
  overloaded: 'registry',
  closed: 'registry',
  'digest-mismatch': 'registry',
  busy: 'registry',
  'disk-full': 'disk',
  'no-space': 'disk',
  file: 'disk',
  'no-platform': 'image',
  'too-large': 'image',
  manifest: 'image',
  tar: 'image',
  layer: 'image',
  filesystem: 'image',
  tool: 'tool',
};

/** What a bare status does not tell. */
const ABSENT = 'the registry has no such image, or does not show it to the user of this root';

/** Longest reason that is kept. */
const REASON_LENGTH_MAX = 1000;

/** What a conversion that ran in a process of its own said. */
export class ConversionError extends CodedError<{ readonly code: string }> {}

/** Why the work failed, for the state of the image. */
export function failureOf(error: unknown): AccelerationFailure {
  const kind = error instanceof CodedError ? KINDS[String(error.code)] : undefined;
  const isAbsent = error instanceof RegistryError && error.code === 'not-found';
  const text = isAbsent ? `${errorText(error)}; ${ABSENT}` : errorText(error);
  const reason = text.replaceAll(/\s+/g, ' ').trim().slice(0, REASON_LENGTH_MAX);
  return { kind: kind ?? 'other', reason };
}
