import { onTestFinished } from 'vitest';
import { RegistryAccess } from '../../../src/registry/registry-access.ts';
import type { RegistryOrigin } from '../../../src/registry/registry-origin.ts';
import type { Clock } from '../../../src/runtime/clock.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { SystemRandom } from '../../../src/runtime/node/random.ts';

type Entries = ConstructorParameters<typeof RegistryAccess>[1]['registries'];
type Entry = Partial<Entries[number]> & { host: string };

/** The origin of an access to one registry that ends with the running test. */
export function makeOrigin(
  entry: Entry,
  init: Partial<ConstructorParameters<typeof RegistryAccess>[1]> = {},
): RegistryOrigin {
  return makeAccess(entry, init).origin;
}

/** An access to registries that ends with the running test. */
export function makeAccess(
  entries: Entry | readonly Entry[],
  init: Partial<ConstructorParameters<typeof RegistryAccess>[1]> = {},
  clock: Clock = new SystemClock(),
): RegistryAccess {
  const components = {
    clock,
    random: new SystemRandom(),
    hash: new NodeHash(),
    logger: silentLogger,
  };
  const registries = [entries].flat().map((entry) => ({ insecure: false, mirrors: [], ...entry }));
  const access = new RegistryAccess(components, { registries, ...init });
  onTestFinished(() => access.close());
  return access;
}
