import { spreadOf } from './quantiles.ts';
import type { World } from './world.ts';
import type { WorldResult, WorldTimes } from './world-types.ts';

/** A seed that broke a rule. */
export interface FailedSeed {
  readonly seed: number;
  readonly rules: readonly string[];
  /** The first violations, one line each. */
  readonly texts: readonly string[];
}

/**
 * Sums up the results of several worlds: adds counts and bytes, joins the lists of times, and takes
 * the worst depths and ratios.
 */
export class Summary {
  readonly failed: FailedSeed[] = [];
  readonly #times: WorldTimes = { cold: [], warm: [], stall: [], full: [] };
  #result: WorldResult | undefined;
  #seeds = 0;

  add(world: World, result: WorldResult): void {
    this.#seeds++;
    const { violations, counts } = world.checker;
    if (result.violations > 0) {
      const texts = violations.map(
        ({ atMs, rule, text }) => `${atMs.toFixed(3)} ms ${rule}: ${text}`,
      );
      this.failed.push({ seed: result.seed, rules: [...counts.keys()], texts });
    }
    for (const kind of ['cold', 'warm', 'stall', 'full'] as const) {
      for (const time of world.times[kind]) this.#times[kind].push(time);
    }
    this.#result = this.#result === undefined ? result : sum(this.#result, result);
  }

  /** The result, with `seeds` = the number of worlds in it; undefined when there were none. */
  result(): (WorldResult & { readonly seeds: number }) | undefined {
    if (this.#result === undefined) return undefined;
    return {
      ...this.#result,
      seeds: this.#seeds,
      coldMs: spreadOf(this.#times.cold),
      warmMs: spreadOf(this.#times.warm),
      stallMs: spreadOf(this.#times.stall),
    };
  }
}

function sum(a: WorldResult, b: WorldResult): WorldResult {
  const added = { ...a } as Record<string, unknown>;
  for (const key of SUMMED) added[key] = a[key] + b[key];
  for (const key of WORST) added[key] = Math.max(a[key], b[key]);
  return added as unknown as WorldResult;
}

const SUMMED = [
  'failedReads',
  'failedReadsWithoutSource',
  'wrongBytes',
  'cycles',
  'violations',
  'crossZoneBytes',
  'touchedBytes',
  'originBytes',
  'fallbackBytes',
  'peerBytes',
  'connections',
  'messages',
  'events',
] as const;

const WORST = ['depthMax', 'originAmplification'] as const;
