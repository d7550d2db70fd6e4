import { onTestFinished } from 'vitest';
import { RegistryClient } from '../../../src/registry/client.ts';
import type { RegistryConfig } from '../../../src/registry/registries.ts';
import type { Clock } from '../../../src/runtime/clock.ts';
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

/** A client that ends with the running test. */
export function makeClient(
  registries: readonly RegistryConfig[],
  clock: Clock = new SystemClock(),
): RegistryClient {
  const hash = new NodeHash();
  const client = new RegistryClient({ clock, random: evenRandom, hash }, { registries });
  onTestFinished(() => client.close());
  return client;
}

/** A clock on which retries run through; `slept` has their delays. */
export function passingClock(): ManualClock {
  return new ManualClock({ sleeps: 'pass' });
}
