import type { Digest } from '../image/digest.ts';
import type { PeerId } from '../util/peer-id.ts';

/** Two independent 32-bit hashes of a text, as one 64-bit value in two halves. */
interface Wide {
  readonly high: number;
  readonly low: number;
}

/**
 * Spreads every input bit over all 32 output bits (the finalizer of MurmurHash3, public domain).
 */
function mix32(value: number): number {
  let mixed = value ^ (value >>> 16);
  mixed = Math.imul(mixed, 0x85ebca6b);
  mixed ^= mixed >>> 13;
  mixed = Math.imul(mixed, 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

/**
 * FNV-1a (32 bit) over the characters, run twice with different starts and primes, each mixed at
 * the end.
 */
function wideHash(text: string): Wide {
  let high = 0x811c9dc5;
  let low = 0x2b992ddf;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    high = Math.imul(high ^ unit, 0x01000193);
    low = Math.imul(low ^ unit, 0x85ebca77);
  }
  return { high: mix32(high), low: mix32(low) };
}

/** Weight of a root for a key: 53 uniform bits, exact in a number. */
function weight(root: Wide, key: Wide): number {
  const high = mix32(root.high ^ mix32(key.high + 0x9e3779b9));
  const low = mix32(root.low ^ mix32(key.low + high));
  return high * 2 ** 21 + (low >>> 11);
}

/**
 * Orders the live roots for each stripe: highest random weight first. The owner, first in the
 * order, is the heaviest root among those that own the fewest earlier stripes of the blob.
 *
 * Load spreads evenly, and when a root goes only its own stripes change hands. Every agent with the
 * same roots computes the same order: the order of `roots` does not matter, and the peer id breaks
 * ties of weight.
 */
export class RootRing {
  readonly #roots: readonly { readonly peer: PeerId; readonly seed: Wide }[];

  constructor(roots: Iterable<PeerId>) {
    this.#roots = [...new Set(roots)].map((peer) => ({ peer, seed: wideHash(peer) }));
  }

  order(digest: Digest, stripe: number): PeerId[] {
    const owned = new Map<PeerId, number>();
    const fewest = (peers: readonly PeerId[]): PeerId | undefined => {
      const counts = peers.map((peer) => owned.get(peer) ?? 0);
      return peers[counts.indexOf(Math.min(...counts))];
    };
    for (let before = 0; before < stripe; before++) {
      const owner = fewest(this.#byWeight(digest, before));
      if (owner !== undefined) owned.set(owner, (owned.get(owner) ?? 0) + 1);
    }
    const order = this.#byWeight(digest, stripe);
    const owner = fewest(order);
    return owner === undefined ? [] : [owner, ...order.filter((peer) => peer !== owner)];
  }

  #byWeight(digest: Digest, stripe: number): PeerId[] {
    const key = wideHash(`${digest}/${stripe}`);
    return this.#roots
      .map(({ peer, seed }) => ({ peer, weight: weight(seed, key) }))
      .sort((a, b) => b.weight - a.weight || (a.peer < b.peer ? -1 : 1))
      .map(({ peer }) => peer);
  }
}

/**
 * The order of `RootRing` for one stripe: the first root owns the stripe, the next takes over when
 * the owner dies.
 */
export function rendezvousOrder(digest: Digest, stripe: number, roots: Iterable<PeerId>): PeerId[] {
  return new RootRing(roots).order(digest, stripe);
}
