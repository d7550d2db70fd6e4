/** Throws when a programmer's assumption does not hold. Stays on in production: a wrong state must not serve bytes. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** A broken assumption: a defect of ours, never an operating error. Nobody catches it to go on. */
class AssertionError extends Error {
  override name = 'AssertionError';
}

/** For the branch that an exhaustive switch cannot reach. */
export function unreachable(value: never): never {
  throw new AssertionError(`unreachable value ${JSON.stringify(value)}`);
}

/** The value, which the caller knows to be there. */
export function defined<T>(value: T | undefined | null, message: string): T {
  assert(value !== undefined && value !== null, message);
  return value;
}
