import type { RegistryPlaceComponents } from '../../../../src/convert/places/registry-place.ts';
import { SystemClock } from '../../../../src/runtime/node/clock.ts';
import { NodeHash } from '../../../../src/runtime/node/hash.ts';
import { SystemRandom } from '../../../../src/runtime/node/random.ts';
import { makeClient } from '../../../registry/kit/clients.ts';

/** What opens places; the registries are asked over plain HTTP. Ends with the running test. */
export function placeComponents(hosts: readonly string[]): RegistryPlaceComponents {
  const client = makeClient(hosts.map((host) => ({ host, insecure: true })));
  return {
    clock: new SystemClock(),
    random: new SystemRandom(),
    hash: new NodeHash(),
    client: async () => client,
  };
}
