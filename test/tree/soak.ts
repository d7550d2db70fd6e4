import { argv } from 'node:process';
import { pathToFileURL } from 'node:url';
import { SeededRandom } from '../../src/sim/seeded-random.ts';
import type { Digest } from '../../src/image/digest.ts';
import type { Random } from '../../src/runtime/random.ts';
import { INNER_CHILDREN } from '../../src/tree/limits.ts';
import { innerFanOut } from '../../src/tree/owner/colours.ts';
import { depthBound, depthBoundZoned } from '../../src/tree/owner/depth.ts';
import { Membership, type MembershipEffect } from '../../src/tree/member/membership.ts';
import type { HostCard, JoinReply, ReportReply } from '../../src/tree/messages.ts';
import { rendezvousOrder } from '../../src/tree/rendezvous.ts';
import { Topology } from '../../src/tree/owner/topology.ts';
import { defined } from '../../src/util/assert.ts';
import { errorText } from '../../src/util/errors.ts';
import type { PeerId } from '../../src/util/peer-id.ts';
import { card, ORIGIN, shapeOf, wanted } from './kit/messages.ts';

export interface SoakInit {
  readonly seed: number;
  readonly steps: number;
  readonly hosts?: number;
  readonly roots?: number;
  readonly zones?: number;
  /**
   * Share of hosts without capacity, 0 to 1. The soak checks the depth only when this is 0 and no
   * host is suspected.
   */
  readonly weak?: number;
  /** Colours of trees; 1 when absent. */
  readonly colours?: number;
  /**
   * Lost, repeated and late messages, crashes, false reports. Without faults, hosts only come and
   * go.
   */
  readonly faults?: boolean;
}

export interface SoakResult {
  /** The broken promises, as text; empty when all held. */
  readonly violations: readonly string[];
  readonly steps: number;
  readonly messages: number;
  readonly membersMax: number;
  readonly depthMax: number;
  readonly counts: Readonly<Record<string, number>>;
  /**
   * Steps at which places from different owners formed a cycle, which the hop budget of a read
   * ends.
   */
  readonly mixedOwnerCycles: number;
  readonly hash: string;
}

interface Node {
  readonly card: HostCard;
  readonly isRoot: boolean;
  up: boolean;
  membership: Membership;
  topology: Topology | undefined;
  epochBase: number;
  readonly wants: Set<number>;
  incarnation: number;
}

interface Message {
  readonly atMs: number;
  readonly order: number;
  readonly run: () => void;
}

const BLOBS = [wanted(1), wanted(2), wanted(3, [0, 1, 2, 3, 4, 5, 6, 7])];
/** A request without an answer fails after this time. */
const REQUEST_TIMEOUT_MS = 4_000;

/**
 * Owners and hosts that communicate over a bad network; checks the promises of src/tree at every
 * step.
 */
class World {
  nowMs = 1_000;
  messages = 0;
  membersMax = 0;
  depthMax = 0;
  mixedOwnerCycles = 0;
  hash = 0;
  readonly counts: Record<string, number> = {};
  /** The broken promises, as text. */
  readonly violations: string[] = [];
  readonly nodes: Node[] = [];
  readonly #random: Random;
  readonly #faults: boolean;
  readonly #colours: number;
  readonly #strict: boolean;
  readonly #byPeer = new Map<PeerId, Node>();
  #queue: Message[] = [];
  #order = 0;
  #healing = false;
  #broken = new Set<string>();

  constructor(init: SoakInit) {
    this.#random = new SeededRandom(`soak ${init.seed}`);
    this.#faults = init.faults ?? true;
    this.#colours = init.colours ?? 1;
    this.#strict = (init.weak ?? 0) === 0 && !this.#faults;
    const [roots, hosts, zones] = [init.roots ?? 2, init.hosts ?? 24, init.zones ?? 3];
    for (let i = 0; i < roots + hosts; i++) {
      const isRoot = i < roots;
      const capacity = this.#random.float() < (init.weak ?? 0) ? 0 : 2 + this.#random.below(3);
      const self = card(isRoot ? `root${i}` : `host${i}`, {
        zone: `z${this.#random.below(zones)}`,
        capacity: isRoot ? 2 : capacity,
      });
      const node: Node = {
        card: self,
        isRoot,
        up: true,
        membership: this.#newMembership(self, isRoot),
        topology: undefined,
        epochBase: 0,
        wants: new Set(),
        incarnation: 0,
      };
      this.nodes.push(node);
      this.#byPeer.set(self.peer, node);
    }
    for (const node of this.nodes) this.#start(node);
  }

  #newMembership(self: HostCard, isRoot: boolean): Membership {
    return new Membership({ self, isRoot, random: this.#random });
  }

  #start(node: Node): void {
    node.up = true;
    node.incarnation++;
    node.wants.clear();
    node.membership = this.#newMembership(node.card, node.isRoot);
    if (node.isRoot) {
      node.epochBase = Math.floor(this.nowMs * 1_000);
      node.topology = new Topology({
        self: node.card,
        fanOut: INNER_CHILDREN,
        colours: this.#colours,
        epochBase: node.epochBase,
      });
    }
    this.#send(node, node.membership.rootsChanged(this.#rootCards(), this.nowMs));
  }

  #rootCards(): HostCard[] {
    return this.nodes.filter(({ isRoot }) => isRoot).map((node) => node.card);
  }

  #count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
    for (let i = 0; i < what.length; i++) {
      this.hash = Math.imul(this.hash ^ what.charCodeAt(i), 0x01000193) >>> 0;
    }
  }

  #chance(share: number): boolean {
    return this.#random.float() < share;
  }

  #pick<T>(list: readonly T[]): T {
    return defined(list[this.#random.below(list.length)], 'a list to pick from is not empty');
  }

  #later(delayMs: number, run: () => void): void {
    this.#queue.push({ atMs: this.nowMs + delayMs, order: ++this.#order, run });
  }

  #delayMs(): number {
    if (this.#healing || !this.#faults) return 1 + this.#random.below(20);
    return this.#chance(0.1) ? this.#random.below(3_000) : 1 + this.#random.below(200);
  }

  #isLost(from: Node, to: Node): boolean {
    if (!from.up || !to.up || this.#isCut(from, to)) return true;
    return this.#faults && !this.#healing && this.#chance(0.05);
  }

  #isCut(a: Node, b: Node): boolean {
    return this.#broken.has(`${a.card.peer} ${b.card.peer}`);
  }

  /** Sends requests; each gets exactly one outcome at its sender. */
  #send(node: Node, effects: readonly MembershipEffect[]): void {
    for (const effect of effects) {
      const owner = defined(this.#byPeer.get(effect.owner.peer), 'owners are hosts of the world');
      const { incarnation } = node;
      let settled = false;
      const outcome = (run: () => readonly MembershipEffect[]): void => {
        if (settled || !node.up || node.incarnation !== incarnation) return;
        settled = true;
        this.#send(node, run());
      };
      this.#later(REQUEST_TIMEOUT_MS, () => {
        outcome(() => this.#fail(node, effect));
      });
      const copies = this.#faults && !this.#healing && this.#chance(0.05) ? 2 : 1;
      for (let copy = 0; copy < copies; copy++) {
        this.#later(this.#delayMs(), () => {
          this.#arrive({ node, owner, effect, outcome });
        });
      }
    }
  }

  #fail(node: Node, effect: MembershipEffect): readonly MembershipEffect[] {
    this.#count(`${effect.kind}-failed`);
    // Whether a root showed signs of life is the transport's word; either must do.
    const failure = this.#chance(0.5) ? 'silent' : 'failed';
    if (effect.kind === 'join') {
      return node.membership.joinFailed(effect.ticket, this.nowMs, failure);
    }
    if (effect.kind === 'report') {
      return node.membership.reportFailed(effect.ticket, this.nowMs, failure);
    }
    return node.membership.leaveDone(effect.ticket, this.nowMs);
  }

  #arrive(call: {
    node: Node;
    owner: Node;
    effect: MembershipEffect;
    outcome: (run: () => readonly MembershipEffect[]) => void;
  }): void {
    const { node, owner, effect, outcome } = call;
    if (this.#isLost(node, owner) || owner.topology === undefined) return;
    this.messages++;
    this.#count(effect.kind);
    const peer = node.card.peer;
    const { membership } = node;
    let reply: () => readonly MembershipEffect[];
    if (effect.kind === 'join') {
      const places: JoinReply = owner.topology.join(peer, effect.request, this.nowMs);
      reply = () => membership.joinReply(effect.ticket, places, this.nowMs);
    } else if (effect.kind === 'report') {
      const places: ReportReply = owner.topology.report(peer, effect.request, this.nowMs);
      reply = () => membership.reportReply(effect.ticket, places, this.nowMs);
    } else {
      owner.topology.leave(peer, effect.request, this.nowMs);
      reply = () => membership.leaveDone(effect.ticket, this.nowMs);
    }
    if (this.#isLost(owner, node)) return;
    const answer = (): void => {
      outcome(reply);
    };
    this.#later(this.#delayMs(), answer);
    if (this.#faults && this.#chance(0.02)) this.#later(this.#delayMs(), answer);
  }

  /** One event: mostly the next message or timer, else a change of a host. */
  step(): void {
    if (this.#chance(0.8)) this.#advance();
    else this.#happen();
  }

  #advance(): void {
    let next: Message | undefined;
    for (const message of this.#queue) {
      const sooner =
        next === undefined ||
        message.atMs < next.atMs ||
        (message.atMs === next.atMs && message.order < next.order);
      if (sooner) next = message;
    }
    let wake: { atMs: number; node: Node } | undefined;
    for (const node of this.nodes) {
      const atMs = node.up ? node.membership.nextWakeMs : undefined;
      if (atMs !== undefined && (wake === undefined || atMs < wake.atMs)) wake = { atMs, node };
    }
    if (next !== undefined && (wake === undefined || next.atMs <= wake.atMs)) {
      this.nowMs = Math.max(this.nowMs, next.atMs);
      const taken = next;
      this.#queue = this.#queue.filter((message) => message !== taken);
      taken.run();
    } else if (wake !== undefined) {
      this.nowMs = Math.max(this.nowMs, wake.atMs);
      this.#send(wake.node, wake.node.membership.tick(this.nowMs));
    } else {
      this.nowMs += 1_000;
    }
    if (this.#chance(0.02)) for (const node of this.nodes) node.topology?.tick(this.nowMs);
  }

  #happen(): void {
    const node = this.#pick(this.nodes);
    const roll = this.#random.float();
    if (!node.up) {
      if (roll < 0.5) {
        this.#count('start');
        this.#start(node);
      }
    } else if (roll < 0.45) {
      this.#want(node);
    } else if (roll < 0.65) {
      this.#unwant(node);
    } else if (!this.#faults) {
      return;
    } else if (roll < 0.8) {
      this.#reportLost(node);
    } else if (roll < (node.isRoot ? 0.82 : 0.9)) {
      this.#crash(node);
    } else if (roll < 0.95) {
      this.#count('cut');
      const other = this.#pick(this.nodes);
      if (this.#broken.size < 10) this.#broken.add(`${node.card.peer} ${other.card.peer}`);
    } else if (roll < 0.99) {
      this.#count('mend');
      this.#broken.clear();
    } else {
      this.#count('silence');
      this.nowMs += 5 * 60_000;
    }
  }

  #want(node: Node): void {
    const which = this.#random.below(BLOBS.length);
    const { blob } = defined(BLOBS[which], 'the blob is listed');
    this.#count('want');
    node.wants.add(which);
    const held = (): [number, number][] => [[which, 1]];
    this.#send(node, node.membership.want([{ blob, origin: ORIGIN, held }], this.nowMs));
  }

  #unwant(node: Node): void {
    const which = [...node.wants][0];
    if (which === undefined) return;
    this.#count('unwant');
    node.wants.delete(which);
    const digest = defined(BLOBS[which], 'the blob is listed').blob.digest;
    this.#send(node, node.membership.unwant(digest, this.nowMs));
  }

  /**
   * Reports that the parent does not answer: because it is down, or for no reason that others see.
   */
  #reportLost(node: Node): void {
    const which = [...node.wants].at(-1);
    if (which === undefined) return;
    const digest = defined(BLOBS[which], 'the blob is listed').blob.digest;
    const parent = node.membership.sources(digest, 0)[0]?.host.peer;
    if (parent === undefined) return;
    const dead = this.#byPeer.get(parent)?.up !== true;
    if (!dead && this.#chance(0.7)) return;
    this.#count(dead ? 'lost-dead' : 'lost-falsely');
    this.#send(node, node.membership.peerLost(parent, this.nowMs));
  }

  #crash(node: Node): void {
    this.#count(node.isRoot ? 'root-crash' : 'crash');
    node.up = false;
    node.topology = undefined;
  }

  /** Adds each promise that is broken now to `violations`. */
  check(): void {
    for (const node of this.nodes) {
      if (node.topology === undefined) continue;
      for (const { digest, stripe } of node.topology.trees()) {
        this.#checkTree(node, digest, stripe);
      }
    }
  }

  #checkTree(owner: Node, digest: Digest, stripe: number): void {
    const topology = defined(owner.topology, 'the owner is up');
    const edges = topology.edges(digest, stripe);
    let shape;
    try {
      shape = shapeOf(edges, owner.card);
    } catch (error) {
      this.violations.push(errorText(error));
      return;
    }
    this.membersMax = Math.max(this.membersMax, shape.members);
    this.depthMax = Math.max(this.depthMax, shape.depthMax);
    for (const [peer, children] of shape.children) {
      if (peer === owner.card.peer) continue;
      const widest = innerFanOut(INNER_CHILDREN, this.#colours);
      const most = Math.min(widest, this.#byPeer.get(peer)?.card.capacity ?? 0);
      if (children.length > most) this.violations.push(`${peer} has ${children.length} children`);
    }
    if (!this.#faults) this.#checkStrays(owner, shape, edges);
    if (this.#strict) {
      const most = innerFanOut(INNER_CHILDREN, this.#colours);
      if ((shape.children.get(owner.card.peer)?.length ?? 0) > most) {
        this.violations.push('the owner has too many children');
      }
      this.#checkStrict(owner, shape);
    }
    const members = new Set(edges.map(({ peer }) => peer));
    this.#checkViews(owner, members, { digest, stripe });
  }

  /** No host hangs outside its zone while the zone has a free slot. */
  #checkStrays(
    owner: Node,
    shape: ReturnType<typeof shapeOf>,
    edges: readonly { readonly peer: PeerId; readonly zone: string }[],
  ): void {
    for (const [zone, crossings] of shape.crossings) {
      if (crossings <= (zone === owner.card.zone ? 0 : 1)) continue;
      for (const { peer, zone: where } of edges) {
        const children = shape.children.get(peer)?.length ?? 0;
        const most = Math.min(INNER_CHILDREN, this.#byPeer.get(peer)?.card.capacity ?? 0);
        if (where !== zone || children >= most) continue;
        this.violations.push(`${peer} has a free slot, but ${crossings} of ${zone} hang outside`);
      }
    }
  }

  #checkStrict(owner: Node, shape: ReturnType<typeof shapeOf>): void {
    for (const [zone, crossings] of shape.crossings) {
      const most = zone === owner.card.zone ? 0 : 1;
      if (crossings > most)
        this.violations.push(`${crossings} hosts of ${zone} hang from other zones`);
    }
    const others = [...shape.zoneSizes.keys()].filter((zone) => zone !== owner.card.zone).length;
    const bound =
      others === 0
        ? depthBound(shape.members, INNER_CHILDREN)
        : depthBoundZoned({
            zoneCount: others,
            zoneSizeMax: Math.max(...shape.zoneSizes.values()),
            fanOut: INNER_CHILDREN,
          });
    if (shape.depthMax > bound) {
      this.violations.push(
        `depth ${shape.depthMax} of ${shape.members} members; the bound is ${bound}`,
      );
    }
  }

  /**
   * The parents in use by live members, as far as their places come from this owner, form no cycle.
   */
  #checkViews(
    owner: Node,
    members: ReadonlySet<PeerId>,
    tree: { digest: Digest; stripe: number },
  ): void {
    const usedOf = (peer: PeerId): PeerId | undefined => {
      const node = this.#byPeer.get(peer);
      const place = node?.membership.placeOf(tree.digest, tree.stripe);
      if (node?.up !== true || place === undefined || !members.has(peer)) return undefined;
      if (place.path.at(-1)?.peer !== owner.card.peer || place.epoch < owner.epochBase) {
        return undefined;
      }
      const first = node.membership.sources(tree.digest, tree.stripe)[0];
      return first?.role === 'parent' ? first.host.peer : undefined;
    };
    for (const start of members) {
      let at: PeerId | undefined = start;
      for (let hops = 0; at !== undefined; hops++) {
        if (hops > members.size + 1) {
          this.violations.push(`the parents in use form a cycle at ${start}`);
          return;
        }
        at = usedOf(at);
      }
    }
  }

  /** Counts cycles among the parents in use, whatever owner the places come from. */
  checkMixed(): void {
    for (const { blob, stripes } of BLOBS) {
      for (const stripe of stripes) {
        if (this.#hasCycle(blob.digest, stripe)) {
          this.mixedOwnerCycles++;
          return;
        }
      }
    }
  }

  #hasCycle(digest: Digest, stripe: number): boolean {
    for (const start of this.nodes) {
      let at: Node | undefined = start;
      for (let hops = 0; at !== undefined && at.up; hops++) {
        if (hops > this.nodes.length) return true;
        const first: { role: string; host: { peer: PeerId } } | undefined = at.membership.sources(
          digest,
          stripe,
        )[0];
        at = first?.role === 'parent' ? this.#byPeer.get(first.host.peer) : undefined;
      }
    }
    return false;
  }

  /**
   * Ends all faults: within minutes every host must have its place at the rightful owner, and hosts
   * and trees must agree.
   */
  heal(): void {
    this.#healing = true;
    this.#broken.clear();
    for (const node of this.nodes) if (!node.up && node.isRoot) this.#start(node);
    const endMs = this.nowMs + 30 * 60_000;
    while (this.nowMs < endMs) this.#advance();
    for (const node of this.nodes) node.topology?.tick(this.nowMs);
    const agreeMs = this.nowMs + 5 * 60_000;
    while (this.nowMs < agreeMs) this.#advance();
    this.check();
    const roots = this.#rootCards().map(({ peer }) => peer);
    for (const [which, { blob, stripes }] of BLOBS.entries()) {
      for (const stripe of stripes)
        this.#checkHealed(which, { digest: blob.digest, stripe }, roots);
    }
    const mixed = this.mixedOwnerCycles;
    this.checkMixed();
    if (this.mixedOwnerCycles !== mixed)
      this.violations.push('a cycle of parents outlives the faults');
  }

  #checkHealed(
    which: number,
    tree: { digest: Digest; stripe: number },
    roots: readonly PeerId[],
  ): void {
    const ownerPeer = defined(rendezvousOrder(tree.digest, tree.stripe, roots)[0], 'a root');
    const owner = defined(this.#byPeer.get(ownerPeer), 'the owner is a host of the world');
    const edges = defined(owner.topology, 'the owner is up').edges(tree.digest, tree.stripe);
    const parents = new Map(edges.map((edge) => [edge.peer, edge.parent]));
    for (const node of this.nodes) {
      const { peer } = node.card;
      const isIn = node.up && node.wants.has(which) && peer !== ownerPeer;
      const what = `${peer} in stripe ${tree.stripe} of blob ${which} at ${ownerPeer}`;
      if (parents.has(peer) !== isIn)
        this.violations.push(`${what}: member ${!isIn}, wanted ${isIn}`);
      if (!isIn) continue;
      const used = node.membership.sources(tree.digest, tree.stripe)[0];
      if (used?.role !== 'parent' || used.host.peer !== parents.get(peer)) {
        this.violations.push(`${what}: uses ${used?.host.peer}, hangs from ${parents.get(peer)}`);
      }
    }
  }
}

/**
 * Runs a random schedule, then heals the world. Ends at the first step that breaks a promise:
 * `violations` says which, `steps` when.
 */
export function soak(init: SoakInit): SoakResult {
  const world = new World(init);
  let step = 0;
  try {
    for (; step < init.steps && world.violations.length === 0; step++) {
      world.step();
      world.check();
      if (step % 16 === 0) world.checkMixed();
    }
    if (world.violations.length === 0) world.heal();
  } catch (error) {
    throw new Error(`soak ${JSON.stringify(init)} failed at step ${step}`, { cause: error });
  }
  return {
    violations: world.violations,
    steps: step,
    messages: world.messages,
    membersMax: world.membersMax,
    depthMax: world.depthMax,
    counts: world.counts,
    mixedOwnerCycles: world.mixedOwnerCycles,
    hash: world.hash.toString(16),
  };
}

/**
 * `node test/tree/soak.ts [STEPS] [SEED]`: worlds of 5,000 steps each, of several kinds, until the
 * steps are used up.
 */
function main(): void {
  const steps = Number(argv[2] ?? 1_000_000);
  const firstSeed = Number(argv[3] ?? 1);
  const each = 5_000;
  const totals: Record<string, number> = {};
  for (let done = 0, seed = firstSeed; done < steps; done += each, seed++) {
    const init = {
      seed,
      steps: Math.min(each, steps - done),
      hosts: 4 + (seed % 40),
      roots: 1 + (seed % 3),
      zones: 1 + (seed % 7),
      colours: seed % 2 === 0 ? 4 : 1,
      weak: seed % 4 === 0 ? 0.4 : 0,
      faults: seed % 5 !== 0,
    };
    const result = soak(init);
    if (result.violations.length > 0) {
      console.error(`soak ${JSON.stringify(init)} at step ${result.steps}:`, result.violations);
      process.exitCode = 1;
      return;
    }
    const sums = { ...result.counts, steps: result.steps, messages: result.messages };
    for (const [what, count] of Object.entries(sums)) totals[what] = (totals[what] ?? 0) + count;
    totals['mixedOwnerCycles'] = (totals['mixedOwnerCycles'] ?? 0) + result.mixedOwnerCycles;
  }
  console.log(JSON.stringify(totals, undefined, 2));
}

if (argv[1] !== undefined && import.meta.url === pathToFileURL(argv[1]).href) main();
