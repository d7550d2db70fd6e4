/**
 * The signals by which a user or a service manager ends a program, and the exit codes that shells
 * report of programs that they ended: 128 + number.
 */
export const END_SIGNALS = { SIGTERM: 143, SIGINT: 130 } as const;

/** Of the first signal that a command heard. */
let heard: number | undefined;

/**
 * Calls `stop` at the first SIGINT or SIGTERM; a second one ends the process at once. A command
 * that fails after the first one exits with the code of that signal, whatever its error says.
 * Gives a function that ends the listening.
 */
export function onEndSignal(stop: () => void): () => void {
  const handlers = Object.entries(END_SIGNALS).map(([signal, code]) => {
    const handler = (): void => {
      heard ??= code;
      leave();
      stop();
    };
    process.once(signal, handler);
    return [signal, handler] as const;
  });
  const leave = (): void => {
    for (const [signal, handler] of handlers) process.removeListener(signal, handler);
  };
  return leave;
}

/** The exit code of a command that a signal ended; undefined when none came. */
export function endSignalCode(): number | undefined {
  return heard;
}
