/** A pending timer. */
export interface Timer {
  cancel(): void;
}

/** Time, injected: pure code never reads a clock of its own. */
export interface Clock {
  /** Monotonic milliseconds, with a fraction. Only differences mean something. */
  nowMs(): number;
  /** Milliseconds since 1970 UTC; may jump. For humans and for files, never for deadlines. */
  wallMs(): number;
  /** Calls back once after at least `delayMs`. The timer does not keep a process alive by itself. */
  setTimer(delayMs: number, callback: () => void): Timer;
  /** Resolves after `delayMs`; rejects with the signal's reason when it aborts first. */
  sleep(delayMs: number, signal?: AbortSignal): Promise<void>;
}
