/** Randomness, injected. Unpredictable in an agent, seeded in the simulator. */
export interface Random {
  /** Uniform in [0, 1). */
  float(): number;
  /** Uniform integer in [0, limit). */
  below(limit: number): number;
  /** Fresh random bytes; in an agent fit for nonces. */
  bytes(count: number): Uint8Array;
}

/** `base` milliseconds, up to `spread` (a share of it) more or less. */
export function jitter(random: Random, base: number, spread: number): number {
  return base * (1 - spread + 2 * spread * random.float());
}
