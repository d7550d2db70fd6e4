import { RegistryError } from './errors.ts';

/**
 * Operations in flight at a time, those in line for a connection included; one more is refused
 * (`overloaded`).
 */
const OPERATIONS_MAX = 1024;

/**
 * Of these, those of one configured registry, and of all others together: a slow registry must not
 * take the places of the others.
 */
const SHARE_MAX = OPERATIONS_MAX / 4;

/** Counts the operations at registries, of all clients together. */
export class OperationShares {
  readonly #counts = new Map<string, number>();
  #total = 0;

  /**
   * Runs the operation, or throws RegistryError (`overloaded`) at once. `share`: whose places it
   * takes.
   */
  async run<T>(registry: string, share: string, operation: () => Promise<T>): Promise<T> {
    const count = this.#counts.get(share) ?? 0;
    if (count >= SHARE_MAX || this.#total >= OPERATIONS_MAX) {
      const most = count >= SHARE_MAX ? SHARE_MAX : OPERATIONS_MAX;
      const what = `${registry} was not asked: ${most} requests are in flight already`;
      throw new RegistryError(what, { code: 'overloaded' });
    }
    this.#counts.set(share, count + 1);
    this.#total++;
    try {
      return await operation();
    } finally {
      const left = (this.#counts.get(share) ?? 1) - 1;
      if (left === 0) this.#counts.delete(share);
      else this.#counts.set(share, left);
      this.#total--;
    }
  }
}
