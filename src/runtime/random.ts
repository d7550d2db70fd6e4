/** Randomness, injected. The real one is unpredictable; the simulator's is seeded. */
export interface Random {
  /** Uniform in [0, 1). */
  float(): number;
  /** Uniform integer in [0, limit). */
  below(limit: number): number;
  /** Fresh bytes, fit for nonces when the real one made them. */
  bytes(count: number): Uint8Array;
}
