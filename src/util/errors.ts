/** Detail of a subsystem's error: a code that callers switch on, and the data of that code. */
export interface ErrorDetail {
  readonly code: string;
}

/**
 * Base of each subsystem's one error class (`RegistryError`, `ImageError`, ...). The message is for
 * people: what could not be done, to what, by which rule, the value found.
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

/** The message of a thrown Error; any other thrown value as a string. */
export function errorText(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
