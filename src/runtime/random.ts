/** Randomness, injected. Unpredictable in an agent, seeded in the simulator. */
export interface Random {
  /** Uniform in [0, 1). */
  float(): number;
  /** Uniform integer in [0, limit). */
  below(limit: number): number;
  /** Fresh random bytes; in an agent fit for nonces. */
  bytes(count: number): Uint8Array;
}

/** From half of `wholeMs` to all of it: the retries of many that failed together spread out. */
export function halfToAll(random: Pick<Random, 'float'>, wholeMs: number): number {
  return wholeMs * (0.5 + random.float() / 2);
}

/** `base` milliseconds, up to `spread` (a share of it) more or less. */
export function jitter(random: Random, base: number, spread: number): number {
  return base * (1 - spread + 2 * spread * random.float());
}
