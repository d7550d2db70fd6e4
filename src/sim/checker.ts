import { BLOCKS_MAX } from '../image/block.ts';
import type { ReadKind } from '../transfer/contracts/blob-reader.ts';
import { CORE_DEFAULTS } from '../transfer/core/core-types.ts';
import { Counts } from '../util/counts.ts';
import type { SimBlock } from './blocks.ts';
import type { HostNumber } from './events.ts';

/** Violations kept with their text; further ones are only counted. */
const KEPT_MAX = 20;

/**
 * Maximum number of sources that one host may ask for one block at a time. A place names a parent,
 * two alternates and up to a dozen ancestors and roots, and a read that is late for seconds hedges
 * from one to the next.
 */
const ATTEMPTS_MAX = 16;

/** Reads of the registry of one block on a host: one that hangs stays open, and a second beside. */
const ORIGIN_READS_MAX = 2;

/** An invariant of the world. */
export type Rule =
  | 'wrong-bytes'
  | 'unverified'
  | 'failed-read'
  | 'cycle'
  | 'depth'
  | 'fan-out'
  | 'single-flight'
  | 'amplification'
  | 'fallback'
  | 'unstored'
  | 'stuck';

/** A rule that was broken, and when in the world. */
export interface Violation {
  readonly rule: Rule;
  readonly atMs: number;
  readonly text: string;
}

/**
 * Watches every step of the world. A violation does not stop the run: the checker reports all
 * violations, with the time in the world.
 */
export class Checker {
  readonly violations: Violation[] = [];
  readonly counts = new Map<Rule, number>();
  nowMs = 0;
  /** Peers that each host is asking for each block now, by `keyOf()`. */
  readonly #asked = new Map<number, HostNumber[]>();
  /** Registry reads in flight, by `keyOf()`. */
  readonly #owned = new Counts<number>();

  count(rule: Rule): number {
    return this.counts.get(rule) ?? 0;
  }

  get total(): number {
    let sum = 0;
    for (const count of this.counts.values()) sum += count;
    return sum;
  }

  violate(rule: Rule, text: string): void {
    this.counts.set(rule, this.count(rule) + 1);
    if (this.violations.length < KEPT_MAX) this.violations.push({ rule, atMs: this.nowMs, text });
  }

  /**
   * Roots were up and reached all the time: no host read more from the registry itself than its
   * budget, whatever was slow.
   */
  readThemselves(bytesOf: ReadonlyMap<HostNumber, number>, touchedBytes: number): void {
    const { fallbackShare, fallbackBytesMin } = CORE_DEFAULTS;
    const budgetBytes = Math.max(fallbackBytesMin, fallbackShare * touchedBytes);
    for (const [host, bytes] of bytesOf) {
      if (bytes <= budgetBytes) continue;
      this.violate('fallback', `host ${host} read ${bytes} bytes from the registry itself`);
    }
  }

  /** A container, or a preheater, received a block. */
  answered(host: HostNumber, wanted: SimBlock, got: SimBlock): void {
    if (got.genuine && got.blob === wanted.blob && got.index === wanted.index) return;
    const what = got.genuine ? `block ${got.index} of blob ${got.blob.number}` : 'wrong bytes';
    this.violate('wrong-bytes', `host ${host} read ${what} as ${nameOf(wanted)}`);
  }

  /** A host stored a block, or passes it on. */
  accepted(host: HostNumber, block: SimBlock, what: 'stored' | 'sent'): void {
    if (block.genuine) return;
    this.violate('unverified', `host ${host} ${what} wrong bytes as ${nameOf(block)}`);
  }

  /** The store of a host had no room for a block: prefetches keep to its pace. */
  unstored(host: HostNumber, block: SimBlock, kind: ReadKind): void {
    if (kind === 'demand') return;
    this.violate('unstored', `host ${host} had no room for its prefetch of ${nameOf(block)}`);
  }

  asks(host: HostNumber, block: SimBlock, peer: HostNumber): void {
    const key = keyOf(host, block);
    const peers = this.#asked.get(key);
    if (peers === undefined) {
      this.#asked.set(key, [peer]);
      return;
    }
    if (peers.includes(peer)) {
      this.violate('single-flight', `host ${host} asks host ${peer} twice for ${nameOf(block)}`);
    }
    peers.push(peer);
    if (peers.length > ATTEMPTS_MAX) {
      this.violate('single-flight', `host ${host} asks ${peers.length} hosts for ${nameOf(block)}`);
    }
  }

  /** The host no longer asks that peer: the peer answered or failed, or the host gave up. */
  asked(host: HostNumber, block: SimBlock, peer: HostNumber): void {
    const key = keyOf(host, block);
    const peers = this.#asked.get(key);
    if (peers === undefined) return;
    if (peers.includes(peer)) peers.splice(peers.indexOf(peer), 1);
    if (peers.length === 0) this.#asked.delete(key);
  }

  /** A host asks the registry. */
  asksOrigin(host: HostNumber, block: SimBlock): void {
    const key = keyOf(host, block);
    this.#owned.add(key);
    const count = this.#owned.of(key);
    if (count <= ORIGIN_READS_MAX) return;
    this.violate('single-flight', `host ${host} reads ${nameOf(block)} ${count} times at once`);
  }

  askedOrigin(host: HostNumber, block: SimBlock): void {
    this.#owned.remove(keyOf(host, block));
  }
}

function nameOf(block: SimBlock): string {
  return `block ${block.index} of blob ${block.blob.number}`;
}

/** A number for a host and a block: 2^10 blobs of BLOCKS_MAX blocks leave room for 2^21 hosts. */
function keyOf(host: HostNumber, block: SimBlock): number {
  return (host * 2 ** 10 + block.blob.number) * BLOCKS_MAX + block.index;
}
