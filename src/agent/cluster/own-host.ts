import { hostname } from 'node:os';
import { CHILDREN_MAX } from '../../tree/owner/colours.ts';
import type { HostName } from '../../tree/presence.ts';
import type { PeerId } from '../../util/peer-id.ts';
import type { OwnAddresses } from './own-addresses.ts';
import type { FoundRoot } from './root-finder.ts';
import type { OwnCard } from './root-presence.ts';

/** This host for others, to be passed on as it is: what it says changes while it runs. */
export function ownHost(
  { zone }: { readonly zone: string },
  own: OwnAddresses,
  { peer, publicKey }: { readonly peer: PeerId; readonly publicKey: Uint8Array },
): { readonly host: OwnCard; readonly self: FoundRoot; readonly named: () => HostName } {
  const host: OwnCard = { peer, ...own, zone, capacity: CHILDREN_MAX };
  const self: FoundRoot = {
    peer,
    get addresses() {
      return host.addresses;
    },
    publicKey,
    basis: 'id',
  };
  const named = () => ({ ...host, name: hostname(), address: host.addresses[0] ?? '' });
  return { host, self, named };
}
