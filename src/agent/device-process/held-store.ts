import type { HeldStore } from '../../device/store-reader/held-image.ts';
import { peerId } from '../../util/peer-id.ts';
import type { Config } from '../config/config-schema.ts';

/**
 * The agent's store, as a device process reads it. The digests that images bring are not known
 * here: when the agent opens an image, it drops from its store what does not match them.
 */
export async function heldStoreOf({ store, untrustedRoots }: Config): Promise<HeldStore> {
  const untrustedSigners: Uint8Array[] = [];
  if (untrustedRoots.length > 0) {
    // Loaded only where it is needed: it brings half of libp2p.
    const { publicKeyOf } = await import('../../net/node/identity.ts');
    untrustedSigners.push(...untrustedRoots.flatMap((peer) => publicKeyOf(peerId(peer)) ?? []));
  }
  return { dir: store.dir, untrustedSigners, digestsOf: () => undefined };
}
