import { onTestFinished } from 'vitest';
import { RegistryClient } from '../../../src/registry/client.ts';
import { registryMetrics } from '../../../src/registry/metrics.ts';
import {
  Registries,
  type RegistriesInit,
  type RegistryConfig,
  type View,
} from '../../../src/registry/registries.ts';
import type { Clock } from '../../../src/runtime/clock.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import type { Random } from '../../../src/runtime/random.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

/** Draws the middle, so that delays can be told. */
const evenRandom: Random = {
  float: () => 0.5,
  below: (limit) => Math.floor(limit / 2),
  bytes: (count) => new Uint8Array(count),
};

/** Registries that end with the running test. */
export function makeRegistries(init: RegistriesInit, clock: Clock = new SystemClock()): Registries {
  const registries = new Registries({ clock, metrics: registryMetrics(silentMetrics) }, init);
  onTestFinished(() => registries.close());
  return registries;
}

/** A client of them that shows credentials, or another one. */
export function clientOf(
  registries: Registries,
  clock: Clock = new SystemClock(),
  view: View = 'own',
): RegistryClient {
  const hash = new NodeHash();
  return new RegistryClient({ clock, random: evenRandom, hash, registries }, { view });
}

/** A client that ends with the running test. */
export function makeClient(
  registries: readonly RegistryConfig[],
  clock: Clock = new SystemClock(),
): RegistryClient {
  return clientOf(makeRegistries({ registries }, clock), clock);
}

/** A clock on which retries run through; `slept` has their delays. */
export function passingClock(): ManualClock {
  return new ManualClock({ sleeps: 'pass' });
}
