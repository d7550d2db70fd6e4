import type { BlobOrigin } from '../../../src/image/block.ts';
import { type Digest, parseDigest } from '../../../src/image/digest.ts';
import type { HostCard, JoinRequest, WantedBlob } from '../../../src/tree/messages.ts';
import type { TreeEdge } from '../../../src/tree/owner/topology.ts';
import { defined } from '../../../src/util/assert.ts';
import { type PeerId, peerId } from '../../../src/util/peer-id.ts';

/** Digest number n. */
export function digestOf(n: number): Digest {
  return defined(parseDigest(`sha256:${n.toString(16).padStart(64, '0')}`), 'a digest');
}

export const ORIGIN: BlobOrigin = { registry: 'registry.test', repository: 'image' };

export function card(
  name: string,
  init: { zone?: string; capacity?: number; addresses?: string[] } = {},
): HostCard {
  return {
    peer: peerId(name),
    addresses: init.addresses ?? [`/dns4/${name}/tcp/19147`],
    zone: init.zone ?? 'z0',
    capacity: init.capacity ?? 2,
  };
}

/** A blob of one stripe, or of eight. */
export function wanted(n: number, stripes: readonly number[] = [0]): WantedBlob {
  const sizeBytes = stripes.length > 1 ? 2 ** 30 : 2 ** 20;
  return { blob: { digest: digestOf(n), sizeBytes }, origin: ORIGIN, stripes, held: [] };
}

export function joinOf(host: HostCard, ...blobs: WantedBlob[]): JoinRequest {
  return { host, blobs: blobs.length === 0 ? [wanted(1)] : blobs };
}

export interface Shape {
  readonly members: number;
  readonly depthMax: number;
  /**
   * Hosts whose parent is in another zone, by zone; includes hosts of the owner's zone that hang
   * from elsewhere.
   */
  readonly crossings: ReadonlyMap<string, number>;
  readonly zoneSizes: ReadonlyMap<string, number>;
  readonly children: ReadonlyMap<PeerId, PeerId[]>;
}

/** Follows every edge to the owner; throws when an edge does not lead there. */
export function shapeOf(edges: readonly TreeEdge[], owner: HostCard): Shape {
  const byPeer = new Map(edges.map((edge) => [edge.peer, edge]));
  const crossings = new Map<string, number>();
  const zoneSizes = new Map<string, number>();
  const children = new Map<PeerId, PeerId[]>();
  let depthMax = 0;
  for (const edge of edges) {
    let depth = 0;
    for (let at: TreeEdge | undefined = edge; at !== undefined; at = byPeer.get(at.parent)) {
      if (++depth > edges.length) throw new Error(`cycle at ${edge.peer}`);
      if (at.parent !== owner.peer && !byPeer.has(at.parent)) {
        throw new Error(`${at.peer} hangs from ${at.parent}, which is no member`);
      }
    }
    if (depth !== edge.depth) throw new Error(`${edge.peer} is at ${depth}, not ${edge.depth}`);
    depthMax = Math.max(depthMax, depth);
    zoneSizes.set(edge.zone, (zoneSizes.get(edge.zone) ?? 0) + 1);
    const parentZone = edge.parent === owner.peer ? owner.zone : byPeer.get(edge.parent)?.zone;
    if (parentZone !== edge.zone) crossings.set(edge.zone, (crossings.get(edge.zone) ?? 0) + 1);
    const siblings = children.get(edge.parent);
    if (siblings === undefined) children.set(edge.parent, [edge.peer]);
    else siblings.push(edge.peer);
  }
  return { members: edges.length, depthMax, crossings, zoneSizes, children };
}
