/** What every error of a subsystem carries: a code that callers switch on, and the data that belongs to it. */
export interface ErrorDetail {
  readonly code: string;
}

/**
 * Base of the one error class that each subsystem has (`RegistryError`, `ImageError`, ...).
 * The message is for people: what could not be done, to what, by which rule, the value found.
 */
export class CodedError<D extends ErrorDetail> extends Error {
  readonly detail: D;

  constructor(message: string, detail: D, options?: { cause?: unknown }) {
    super(message, options);
    this.detail = detail;
    this.name = new.target.name;
  }

  get code(): D['code'] {
    return this.detail.code;
  }
}

/** The text of anything thrown. */
export function errorText(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
