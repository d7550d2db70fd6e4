import type { Clock } from '../../runtime/clock.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { TokenBucket } from '../../util/token-bucket.ts';
import {
  BUDGETS_MAX,
  PLACE_BYTES,
  PLACES_BURST_PER_ADDRESS,
  PLACES_BURST_PER_PEER,
  PLACES_PER_SECOND_PER_ADDRESS,
  PLACES_PER_SECOND_PER_PEER,
} from '../limits.ts';

const PEER = { perSecond: PLACES_PER_SECOND_PER_PEER, burst: PLACES_BURST_PER_PEER };
const ADDRESS = { perSecond: PLACES_PER_SECOND_PER_ADDRESS, burst: PLACES_BURST_PER_ADDRESS };

/** Who asks: an identity costs nothing, so its address is counted as well. */
export interface Asker {
  readonly peer: PeerId;
  readonly address: string;
}

/**
 * What hosts may have the owner of trees work: places in trees a second, by identity and by address. A
 * JOIN costs the owner 10 us of its one thread for each place that it names.
 */
export class CallBudget {
  readonly #clock: Clock;
  readonly #buckets = new BoundedMap<string, TokenBucket>({
    entriesMax: BUDGETS_MAX,
    evict: 'use',
  });

  constructor(components: { readonly clock: Clock }) {
    this.#clock = components.clock;
  }

  /** Whether the asker may have a request of so many bytes read. */
  mayRead(asker: Asker, byteCount: number): boolean {
    return this.#take(asker, byteCount / PLACE_BYTES);
  }

  /** Whether the asker may have so many places worked on. */
  mayWork(asker: Asker, placeCount: number): boolean {
    return this.#take(asker, placeCount);
  }

  #take({ peer, address }: Asker, amount: number): boolean {
    const nowMs = this.#clock.nowMs();
    const [ofPeer, ofAddress] = [this.#bucket(peer, PEER), this.#bucket(address, ADDRESS)];
    // A request larger than the burst passes when all of it is there.
    if (!ofPeer.take(Math.min(amount, PEER.burst), nowMs)) return false;
    return ofAddress.take(Math.min(amount, ADDRESS.burst), nowMs);
  }

  #bucket(name: string, limits: { perSecond: number; burst: number }): TokenBucket {
    const known = this.#buckets.get(name);
    if (known !== undefined) return known;
    const made = new TokenBucket(limits);
    this.#buckets.set(name, made);
    return made;
  }
}
