import { onTestFinished } from 'vitest';
import { RegistryOrigin } from '../../../src/registry/registry-origin.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { SystemRandom } from '../../../src/runtime/node/random.ts';

type Entries = ConstructorParameters<typeof RegistryOrigin>[1]['registries'];

/** A `RegistryOrigin` that ends with the running test. */
export function makeOrigin(
  entry: Partial<Entries[number]> & { host: string },
  init: Partial<ConstructorParameters<typeof RegistryOrigin>[1]> = {},
): RegistryOrigin {
  const components = {
    clock: new SystemClock(),
    random: new SystemRandom(),
    hash: new NodeHash(),
    logger: silentLogger,
  };
  const registries = [{ insecure: false, mirrors: [], ...entry }];
  const origin = new RegistryOrigin(components, { registries, ...init });
  onTestFinished(() => origin.close());
  return origin;
}
