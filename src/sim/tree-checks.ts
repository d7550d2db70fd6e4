import { depthBound, depthBoundZoned } from '../tree/owner/depth.ts';
import type { TreeEdge } from '../tree/owner/topology.ts';
import type { PeerId } from '../util/peer-id.ts';
import type { Checker } from './checker.ts';
import type { SimHost } from './sim-host.ts';

/** Bounds that the checks hold trees to. */
export interface TreeLimits {
  /** Children that every host takes; the bound on the depth follows from it. */
  readonly fanOut: number;
  /** Children of a host in the trees of its colour. */
  readonly innerFanOut: number;
  readonly rootFanOut: number | undefined;
}

/** Greatest depth of a tree of `hosts` hosts in `zones` zones. */
export function treeDepthBound(shape: { hosts: number; zones: number; fanOut: number }): number {
  const { hosts, zones, fanOut } = shape;
  if (zones <= 1) return depthBound(hosts, fanOut);
  return depthBoundZoned({ zoneCount: zones - 1, zoneSizeMax: hosts, fanOut });
}

/**
 * Checks every tree that a root keeps: it has no cycle, no host has too many children, and no host
 * is too deep. Without `rootFanOut` the owner may have any number of children: when every host with
 * room is suspected, hosts without a place hang from the owner beyond its limit.
 */
export function checkTrees(host: SimHost, limits: TreeLimits, checker: Checker): void {
  const topology = host.agent?.core.topology;
  if (topology === undefined) return;
  for (const { digest, stripe } of topology.trees()) {
    checkTree(topology.edges(digest, stripe), { ...limits, name: `${digest}/${stripe}` }, checker);
  }
}

function checkTree(
  edges: readonly TreeEdge[],
  limits: TreeLimits & { name: string },
  checker: Checker,
): void {
  const parents = new Map(edges.map(({ peer, parent }) => [peer, parent]));
  const children = new Map<PeerId, number>();
  const zones = new Map<string, number>();
  let depth = 0;
  for (const edge of edges) {
    children.set(edge.parent, (children.get(edge.parent) ?? 0) + 1);
    zones.set(edge.zone, (zones.get(edge.zone) ?? 0) + 1);
    depth = Math.max(depth, edge.depth);
    if (isInCycle(edge.peer, parents)) {
      checker.violate('cycle', `${edge.peer} is below itself in tree ${limits.name}`);
    }
  }
  for (const [peer, count] of children) {
    const most = parents.has(peer) ? limits.innerFanOut : limits.rootFanOut;
    if (most === undefined || count <= most) continue;
    checker.violate('fan-out', `${peer} has ${count} children in tree ${limits.name}, not ${most}`);
  }
  const hosts = Math.max(0, ...zones.values());
  const bound = treeDepthBound({ hosts, zones: zones.size + 1, fanOut: limits.fanOut });
  if (depth > bound) {
    checker.violate(
      'depth',
      `tree ${limits.name} of ${edges.length} is ${depth} deep, not ${bound}`,
    );
  }
}

function isInCycle(start: PeerId, parents: ReadonlyMap<PeerId, PeerId>): boolean {
  let at = parents.get(start);
  for (let steps = 0; at !== undefined && steps <= parents.size; steps++) {
    if (at === start) return true;
    at = parents.get(at);
  }
  return false;
}

/**
 * Checks the parents that the hosts themselves hold: when the world is quiet, these form no cycle
 * either.
 */
export function checkPlaces(hosts: readonly SimHost[], checker: Checker): void {
  const trees = new Map<string, Map<PeerId, PeerId>>();
  for (const { peer, agent } of hosts) {
    for (const { digest, stripe, place } of agent?.core.trees() ?? []) {
      const parent = place?.path[0];
      if (parent === undefined) continue;
      const name = `${digest}/${stripe}`;
      const parents = trees.get(name);
      if (parents === undefined) trees.set(name, new Map([[peer, parent.peer]]));
      else parents.set(peer, parent.peer);
    }
  }
  for (const [name, parents] of trees) {
    for (const peer of parents.keys()) {
      if (!isInCycle(peer, parents)) continue;
      checker.violate('cycle', `${peer} waits for itself in tree ${name}`);
    }
  }
}
