import type { PeerId } from '../util/peer-id.ts';
import type { ReadKind } from './blob-reader.ts';

/** A block on its way to a peer. */
interface Parcel<P, T> {
  readonly token: T;
  readonly peer: PeerId;
  readonly block: P;
  readonly lengthBytes: number;
  kind: ReadKind;
}

/**
 * Which answer is sent next: demand before prefetch, and within a kind one peer after the other, so that a child that asks
 * for much does not starve its siblings. Bytes under way are bounded per peer and in all.
 */
export class Egress<P, T> {
  readonly #peerBytesMax: number;
  readonly #bytesMax: number;
  /** Per kind: queues by peer; the order of the map is the order of turns. */
  readonly #waiting = {
    demand: new Map<PeerId, Parcel<P, T>[]>(),
    prefetch: new Map<PeerId, Parcel<P, T>[]>(),
  };
  readonly #sending = new Map<T, Parcel<P, T>>();
  readonly #peerBytes = new Map<PeerId, number>();
  #bytes = 0;

  constructor(init: { peerBytesMax: number; bytesMax: number }) {
    this.#peerBytesMax = init.peerBytesMax;
    this.#bytesMax = init.bytesMax;
  }

  add(parcel: Parcel<P, T>): void {
    const queues = this.#waiting[parcel.kind];
    const queue = queues.get(parcel.peer);
    if (queue === undefined) queues.set(parcel.peer, [parcel]);
    else queue.push(parcel);
  }

  /** The next parcel to send, which counts as under way from now on; undefined when there is none or no room. */
  next(): Parcel<P, T> | undefined {
    if (this.#bytes >= this.#bytesMax) return undefined;
    return this.#take('demand') ?? this.#take('prefetch');
  }

  /** The parcel left this host. */
  sent(token: T): void {
    const parcel = this.#sending.get(token);
    if (parcel === undefined) return;
    this.#sending.delete(token);
    this.#bytes -= parcel.lengthBytes;
    const left = (this.#peerBytes.get(parcel.peer) ?? 0) - parcel.lengthBytes;
    if (left > 0) this.#peerBytes.set(parcel.peer, left);
    else this.#peerBytes.delete(parcel.peer);
  }

  /** Takes back the waiting parcels that `match`; those under way go on. */
  withdraw(peer: PeerId, match: (parcel: Parcel<P, T>) => boolean): readonly Parcel<P, T>[] {
    const withdrawn: Parcel<P, T>[] = [];
    for (const queues of [this.#waiting.demand, this.#waiting.prefetch]) {
      const queue = queues.get(peer);
      if (queue === undefined) continue;
      const kept = queue.filter((parcel) => !match(parcel));
      if (kept.length === queue.length) continue;
      withdrawn.push(...queue.filter(match));
      if (kept.length > 0) queues.set(peer, kept);
      else queues.delete(peer);
    }
    return withdrawn;
  }

  #take(kind: ReadKind): Parcel<P, T> | undefined {
    const queues = this.#waiting[kind];
    for (const [peer, queue] of queues) {
      const under = this.#peerBytes.get(peer) ?? 0;
      if (under >= this.#peerBytesMax) continue;
      const parcel = queue.shift();
      queues.delete(peer);
      if (parcel === undefined) continue;
      if (queue.length > 0) queues.set(peer, queue);
      this.#sending.set(parcel.token, parcel);
      this.#peerBytes.set(peer, under + parcel.lengthBytes);
      this.#bytes += parcel.lengthBytes;
      return parcel;
    }
    return undefined;
  }
}
