/**
 * Throws an AssertionError with `message` when an assumption of the code does not hold.
 * Assertions stay on in production: an agent in a wrong state must not serve bytes.
 */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/**
 * A broken assumption: a defect of Xylem, never an operating error. No code catches it and goes on.
 */
class AssertionError extends Error {
  override name = 'AssertionError';
}

/** For the branch that an exhaustive switch cannot reach: always throws an AssertionError. */
export function unreachable(value: never): never {
  throw new AssertionError(`unreachable value ${JSON.stringify(value)}`);
}

/** The value, which the caller knows to exist; throws an AssertionError when it does not. */
export function defined<T>(value: T | undefined | null, message: string): T {
  assert(value !== undefined && value !== null, message);
  return value;
}
