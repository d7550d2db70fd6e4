import { onTestFinished } from 'vitest';
import { RegistryAccess } from '../../../src/registry/registry-access.ts';
import type { RegistryOrigin } from '../../../src/registry/registry-origin.ts';
import type { Clock } from '../../../src/runtime/clock.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { SystemRandom } from '../../../src/runtime/node/random.ts';

type Entries = ConstructorParameters<typeof RegistryAccess>[1]['registries'];

/** The origin of an access to one registry that ends with the running test. */
export function makeOrigin(
  entry: Partial<Entries[number]> & { host: string },
  init: Partial<ConstructorParameters<typeof RegistryAccess>[1]> = {},
): RegistryOrigin {
  return makeAccess(entry, init).origin;
}

/** An access to one registry that ends with the running test. */
export function makeAccess(
  entry: Partial<Entries[number]> & { host: string },
  init: Partial<ConstructorParameters<typeof RegistryAccess>[1]> = {},
  clock: Clock = new SystemClock(),
): RegistryAccess {
  const components = {
    clock,
    random: new SystemRandom(),
    hash: new NodeHash(),
    logger: silentLogger,
  };
  const registries = [{ insecure: false, mirrors: [], ...entry }];
  const access = new RegistryAccess(components, { registries, ...init });
  onTestFinished(() => access.close());
  return access;
}
