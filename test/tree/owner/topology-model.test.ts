import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { SeededRandom } from '../../../src/sim/seeded-random.ts';
import { innerFanOut } from '../../../src/tree/owner/colours.ts';
import { depthBound, depthBoundZoned } from '../../../src/tree/owner/depth.ts';
import { Topology, type TreeEdge } from '../../../src/tree/owner/topology.ts';
import { card, digestOf, joinOf, shapeOf } from '../kit/messages.ts';

type Op =
  | { readonly kind: 'join'; readonly host: number }
  | { readonly kind: 'leave'; readonly host: number }
  | {
      readonly kind: 'thin';
      readonly keep: 'deep' | 'shallow' | 'odd' | 'path';
      readonly share: number;
    }
  | { readonly kind: 'fill'; readonly count: number };

interface Case {
  readonly ops: readonly Op[];
  readonly fanOut: number;
  readonly colours: number;
  readonly zones: number;
  readonly ownerZone: number;
  readonly seed: number;
}

const HOSTS = 300;

const op: fc.Arbitrary<Op> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('join'), host: fc.nat(HOSTS - 1) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('leave'), host: fc.nat(HOSTS - 1) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('thin'),
      keep: fc.constantFrom('deep', 'shallow', 'odd', 'path', 'path'),
      share: fc.double({ min: 0.1, max: 0.95, noNaN: true }),
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('fill'), count: fc.nat(400) }) },
) as fc.Arbitrary<Op>;

const scenario: fc.Arbitrary<Case> = fc.record({
  ops: fc.array(op, { minLength: 4, maxLength: 16, size: 'max' }),
  fanOut: fc.integer({ min: 2, max: 4 }),
  colours: fc.constantFrom(1, 1, 2, 4, 7),
  zones: fc.constantFrom(1, 2, 3, 12, 60, HOSTS),
  ownerZone: fc.constantFrom(0, 999),
  seed: fc.nat(),
});

/** A topology and its events; `check` runs after each step. */
class Run {
  readonly owner;
  readonly topology;
  readonly #fanOut: number;
  /** Children of a host in the trees of its colour. */
  readonly #widest: number;
  readonly #hosts;
  readonly #random;

  constructor(init: Case, weakShare: number) {
    this.#random = new SeededRandom(`topology ${init.seed}`);
    this.#fanOut = init.fanOut;
    this.owner = card('owner', { zone: `z${init.ownerZone}` });
    this.#widest = innerFanOut(init.fanOut, init.colours);
    const { fanOut, colours } = init;
    this.topology = new Topology({ self: this.owner, fanOut, colours });
    this.#hosts = Array.from({ length: HOSTS }, (_, i) =>
      card(`host${i}`, {
        zone: `z${this.#random.below(init.zones)}`,
        capacity: this.#random.float() < weakShare ? 0 : init.fanOut + this.#random.below(7),
      }),
    );
  }

  edges() {
    return this.topology.edges(digestOf(1), 0);
  }

  apply(step: Op, check: () => void): void {
    if (step.kind === 'join') this.#join(step.host);
    if (step.kind === 'leave') this.#leave(`host${step.host}`);
    if (step.kind === 'fill') {
      for (let i = 0; i < step.count; i++) this.#join(this.#random.below(HOSTS));
    }
    if (step.kind === 'thin') {
      for (const peer of this.#thinned(step.keep, step.share)) {
        this.#leave(peer);
        check();
      }
    }
    check();
  }

  /** The hosts that leave, deepest first: the hosts not to be kept, or a share of them. */
  #thinned(keep: 'deep' | 'shallow' | 'odd' | 'path', share: number): string[] {
    const edges = this.edges().sort((a, b) => b.depth - a.depth);
    const parents = new Map(edges.map(({ peer, parent }) => [peer, parent]));
    const path = new Set<string>();
    for (let at = edges[0]?.peer; at !== undefined; at = parents.get(at)) path.add(at);
    const middle = (edges[0]?.depth ?? 0) / 2;
    const isKept = ({ peer, depth }: TreeEdge): boolean => {
      if (keep === 'path') return path.has(peer);
      if (this.#random.float() > share) return true;
      return keep === 'odd'
        ? Number(peer.slice(4)) % 2 === 1
        : depth > middle === (keep === 'deep');
    };
    return edges.filter((edge) => !isKept(edge)).map(({ peer }) => peer);
  }

  #join(index: number): void {
    const host = this.#hosts[index % HOSTS];
    if (host !== undefined) this.topology.join(host.peer, joinOf(host), 0);
  }

  #leave(name: string): void {
    const host = this.#hosts.find(({ peer }) => peer === name);
    if (host === undefined) return;
    this.topology.leave(host.peer, { digests: [digestOf(1)] }, 0);
  }

  shape() {
    return shapeOf(this.edges(), this.owner);
  }

  checkFanOut(): void {
    for (const [peer, children] of this.shape().children) {
      const host = this.#hosts.find((each) => each.peer === peer);
      if (host === undefined) continue;
      expect(children.length).toBeLessThanOrEqual(Math.min(host.capacity, this.#widest));
    }
  }

  checkShape(): void {
    const shape = this.shape();
    const home = this.owner.zone;
    expect(shape.children.get(this.owner.peer)?.length ?? 0).toBeLessThanOrEqual(this.#widest);
    for (const [zone, count] of shape.crossings)
      expect([zone, count]).toEqual([zone, zone === home ? 0 : 1]);
    const zoneCount = [...shape.zoneSizes.keys()].filter((zone) => zone !== home).length;
    const zoneSizeMax = Math.max(0, ...shape.zoneSizes.values());
    const bound =
      zoneCount === 0
        ? depthBound(shape.members, this.#fanOut)
        : depthBoundZoned({ zoneCount, zoneSizeMax, fanOut: this.#fanOut });
    expect(shape.depthMax).toBeLessThanOrEqual(bound);
  }
}

describe('Topology model', () => {
  test('Topology keeps fan-out, depth and one head per zone after every join and leave', () => {
    fc.assert(
      fc.property(scenario, (init) => {
        const run = new Run(init, 0);
        for (const step of init.ops) {
          run.apply(step, () => {
            run.checkFanOut();
            run.checkShape();
          });
        }
      }),
      { numRuns: 60 },
    );
  }, 120_000);

  test('Topology never gives a host more children than its capacity', () => {
    fc.assert(
      fc.property(scenario, fc.double({ min: 0.1, max: 1, noNaN: true }), (init, weak) => {
        const run = new Run(init, weak);
        for (const step of init.ops) run.apply(step, () => run.checkFanOut());
      }),
      { numRuns: 40 },
    );
  }, 120_000);
});
