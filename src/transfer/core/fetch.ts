import type { BlockIndex } from '../../image/block.ts';
import type { ReadKind } from '../contracts/blob-reader.ts';
import type { HostAddress } from '../../tree/messages.ts';
import type { PeerId } from '../../util/peer-id.ts';
import type { OriginNo } from '../contracts/origin.ts';
import {
  HOPS_MAX,
  HOPS_SLACK,
  keyOf,
  type BlobState,
  type Fetch,
  type Routes,
  type Waiter,
} from './core-types.ts';

/** A fetch that has asked nobody yet. */
export function makeFetch<T>(
  blob: BlobState<T>,
  index: BlockIndex,
  how: {
    readonly kind: ReadKind;
    readonly hops: number;
    /** The store has the block. */
    readonly held: boolean;
    /** The prefetcher wants it. */
    readonly wanted: boolean;
  },
): Fetch<T> {
  const { kind, hops, held, wanted } = how;
  return {
    blob,
    index,
    key: keyOf(blob, index),
    kind,
    stage: held ? 'disk' : 'network',
    hops,
    waiters: [],
    attempts: [],
    tried: new Set(),
    withoutWay: new Set(),
    rounds: 0,
    originLate: 0,
    wanted,
    retry: undefined,
  };
}

/** The hop budget of a read of this host's own. */
export function ownHops(
  blob: BlobState<unknown>,
  index: BlockIndex,
  routes: Pick<Routes, 'depth'>,
): number {
  return Math.min(HOPS_MAX, routes.depth(blob.ref.digest, index % blob.stripes) + HOPS_SLACK);
}

/**
 * Hosts that read the block's stripe here, and those that were near this one in its tree, each
 * once: of one that is both the tree tells the address.
 */
export function kinOf(
  { blob, index }: Pick<Fetch<unknown>, 'blob' | 'index'>,
  routes: Pick<Routes, 'kin'>,
): readonly HostAddress[] {
  const stripe = index % blob.stripes;
  const kin = new Map<PeerId, HostAddress>();
  for (const peer of blob.children[stripe] ?? []) kin.set(peer, { peer, addresses: [] });
  for (const host of routes.kin(blob.ref.digest, stripe)) kin.set(host.peer, host);
  return [...kin.values()];
}

/**
 * Whether this answer of a registry ends the read. Demand reads of a peer outlast a limit: the peer
 * would only ask the registry itself.
 */
export function endsOn(
  { kind, peer, endsOnNo }: Waiter<unknown>,
  no: OriginNo | undefined,
): boolean {
  const isOutlasted = no === 'limited' && kind === 'demand' && peer !== undefined;
  return no !== undefined && endsOnNo && !isOutlasted;
}
