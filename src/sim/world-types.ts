import type { TraceAccess } from '../image/trace.ts';
import type { HostCoreInit } from '../transfer/host/host-core.ts';
import type { Planted } from './agent-world.ts';
import type { FaultName } from './faults.ts';
import type { Spread } from './quantiles.ts';

/** The parameters of a run; they decide everything in it. */
export interface WorldInit {
  readonly hosts: number;
  readonly containersPerHost: number;
  readonly roots: number;
  /** Groups of hosts with `RELAYS_PER_GROUP` relays each: 0 (none) or a multiple of the zones. */
  readonly groups: number;
  readonly zones: number;
  readonly seed: number;
  readonly faults: readonly FaultName[];
  readonly workload: 'start' | 'full';
  /** How containers read; through the HTTP prefix, a root's word opens each blob. */
  readonly road: 'device' | 'prefix';
  /** Whether the image ships the order of touches, or hosts learn it on the fly. */
  readonly trace: 'shipped' | 'none';
  /** The reads of the containers, instead of the default trace. */
  readonly accesses?: readonly TraceAccess[];
  readonly vcpus: number;
  readonly nicBytesPerMs?: number;
  readonly latencyMs: number;
  readonly registryRequestsPerSecond: number;
  /** Sizes of the layers in units of 10^6 bytes; absent: the default image. */
  readonly layersMb?: readonly number[];
  /** Limits of the agents' reducer and of their trees, for experiments and planted defects. */
  readonly core?: Pick<HostCoreInit, 'blocks' | 'topology'>;
  /** A defect of the agents, for the tests of the checkers. */
  readonly planted?: Planted;
}

/** The hosts of the published measurements: 4 vCPUs, 1.5 Gbit/s, 0.25 ms. */
export const WORLD_DEFAULTS: WorldInit = {
  hosts: 100,
  containersPerHost: 10,
  roots: 4,
  groups: 0,
  zones: 1,
  seed: 1,
  faults: [],
  workload: 'start',
  road: 'device',
  trace: 'shipped',
  vcpus: 4,
  latencyMs: 0.25,
  registryRequestsPerSecond: 5_000,
};

/** Raw times in milliseconds of the world. */
export interface WorldTimes {
  readonly cold: number[];
  readonly warm: number[];
  readonly stall: number[];
  readonly full: number[];
}

/** Outcome of a run; times in milliseconds of the world. */
export interface WorldResult {
  readonly hosts: number;
  readonly containers: number;
  readonly seed: number;
  readonly failedReads: number;
  readonly failedReadsWithoutSource: number;
  readonly wrongBytes: number;
  readonly cycles: number;
  readonly violations: number;
  readonly depthMax: number;
  readonly depthBound: number;
  readonly originAmplification: number;
  readonly coldMs: Spread;
  readonly warmMs: Spread;
  readonly stallMs: Spread;
  readonly fullMs?: { readonly max: number; readonly ideal: number };
  readonly crossZoneBytes: number;
  readonly touchedBytes: number;
  readonly originBytes: number;
  readonly fallbackBytes: number;
  readonly peerBytes: number;
  readonly connections: number;
  readonly messages: number;
  readonly events: number;
}
