/** A pending timer. */
export interface Timer {
  cancel(): void;
}

/** Time, injected: pure code never reads a clock directly. */
export interface Clock {
  /** Monotonic milliseconds, with a fraction. Only differences between them have a meaning. */
  nowMs(): number;
  /** Milliseconds since 1970 UTC; may jump. For humans and for files, never for deadlines. */
  wallMs(): number;
  /** Calls back once, after at least `delayMs`. The timer alone does not keep a process alive. */
  setTimer(delayMs: number, callback: () => void): Timer;
  /** Resolves after at least `delayMs`; rejects with the signal's reason when that aborts first. */
  sleep(delayMs: number, signal?: AbortSignal): Promise<void>;
}
