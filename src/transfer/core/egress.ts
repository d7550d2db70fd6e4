import type { PeerId } from '../../util/peer-id.ts';
import type { HeapTimer, TimerHeap } from '../../util/timer-heap.ts';
import type { ReadKind } from '../contracts/blob-reader.ts';
import type { CoreInit, TimerAction } from './core-types.ts';
import type { Effect } from './effects.ts';
import { Throttle } from './throttle.ts';

/** A block on its way to a peer. */
interface Parcel<P, T> {
  readonly token: T;
  readonly peer: PeerId;
  readonly block: P;
  readonly lengthBytes: number;
  readonly kind: ReadKind;
}

/** What the egress needs of the reducer around it. */
interface EgressHost<P, T> {
  readonly init: CoreInit;
  readonly timers: TimerHeap<TimerAction<T>>;
  emit(effect: Effect<P, T>): void;
}

/**
 * Decides which answer is sent next: demand before prefetch, and within a kind one peer after the
 * other, so that a demanding child does not starve its siblings. Bytes in flight are bounded per
 * peer and in all, and by a rate where one is set.
 */
export class Egress<P, T> {
  readonly #host: EgressHost<P, T>;
  readonly #throttle: Throttle | undefined;
  /** Per kind: queues by peer; the order of the map is the order of turns. */
  readonly #waiting = {
    demand: new Map<PeerId, Parcel<P, T>[]>(),
    prefetch: new Map<PeerId, Parcel<P, T>[]>(),
  };
  readonly #waitingBytes = { demand: 0, prefetch: 0 };
  readonly #sending = new Map<T, Parcel<P, T>>();
  readonly #peerBytes = new Map<PeerId, number>();
  #bytes = 0;
  #upload: HeapTimer<TimerAction<T>> | undefined;

  constructor(host: EgressHost<P, T>) {
    this.#host = host;
    const { uploadBytesPerSecond: rate } = host.init;
    this.#throttle = rate === undefined ? undefined : new Throttle({ bytesPerSecond: rate });
  }

  /** Time in which the upload limit held something back, in milliseconds. */
  get heldMs(): number {
    return this.#throttle?.heldMs ?? 0;
  }

  /**
   * Milliseconds by which a parcel queued now would exceed `uploadBacklogMsMax`; 0 or less if it
   * would not.
   */
  behindMs(kind: ReadKind): number {
    const { uploadBytesPerSecond: rate, uploadBacklogMsMax } = this.#host.init;
    if (rate === undefined) return 0;
    const { demand, prefetch } = this.#waitingBytes;
    const beforeBytes = kind === 'demand' ? demand : demand + prefetch;
    return (beforeBytes / rate) * 1000 - uploadBacklogMsMax;
  }

  add(parcel: Parcel<P, T>, nowMs: number): void {
    this.#queue(parcel);
    this.#pump(nowMs);
  }

  /**
   * Something waits for the parcel now. Without an upload limit no parcel waits here long enough to
   * matter.
   */
  promote(token: T, nowMs: number): void {
    if (this.#throttle === undefined) return;
    for (const peer of this.#waiting.prefetch.keys()) {
      const [parcel] = this.withdraw(peer, (each) => each.token === token);
      if (parcel === undefined) continue;
      this.#queue({ ...parcel, kind: 'demand' });
      return this.#pump(nowMs);
    }
  }

  /** The parcel left this host. */
  sent(token: T, nowMs: number): void {
    const parcel = this.#sending.get(token);
    if (parcel !== undefined) {
      this.#sending.delete(token);
      this.#bytes -= parcel.lengthBytes;
      const left = (this.#peerBytes.get(parcel.peer) ?? 0) - parcel.lengthBytes;
      if (left > 0) this.#peerBytes.set(parcel.peer, left);
      else this.#peerBytes.delete(parcel.peer);
    }
    this.#pump(nowMs);
  }

  /** The upload limit lets something pass again. */
  onUpload(nowMs: number): void {
    this.#upload = undefined;
    this.#pump(nowMs);
  }

  /** Takes back the waiting parcels that `match`; parcels in flight go on. */
  withdraw(peer: PeerId, match: (parcel: Parcel<P, T>) => boolean): readonly Parcel<P, T>[] {
    const withdrawn: Parcel<P, T>[] = [];
    for (const queues of [this.#waiting.demand, this.#waiting.prefetch]) {
      const queue = queues.get(peer);
      if (queue === undefined) continue;
      const kept = queue.filter((parcel) => !match(parcel));
      if (kept.length === queue.length) continue;
      for (const parcel of queue.filter(match)) {
        withdrawn.push(parcel);
        this.#waitingBytes[parcel.kind] -= parcel.lengthBytes;
      }
      if (kept.length > 0) queues.set(peer, kept);
      else queues.delete(peer);
    }
    return withdrawn;
  }

  #queue(parcel: Parcel<P, T>): void {
    const queues = this.#waiting[parcel.kind];
    const queue = queues.get(parcel.peer);
    this.#waitingBytes[parcel.kind] += parcel.lengthBytes;
    if (queue === undefined) queues.set(parcel.peer, [parcel]);
    else queue.push(parcel);
  }

  /** Sends parcels while there is room. */
  #pump(nowMs: number): void {
    while (this.#bytes < this.#host.init.egressBytesMax) {
      const parcel = this.#take('demand', nowMs) ?? this.#take('prefetch', nowMs);
      if (parcel === undefined || parcel === 'held') return;
      const { token, peer, block } = parcel;
      this.#host.emit({ type: 'send', token, peer, block });
    }
  }

  /**
   * The next parcel of this kind, which counts as in flight from now on; `held` when the upload
   * limit holds back this parcel and all others.
   */
  #take(kind: ReadKind, nowMs: number): Parcel<P, T> | 'held' | undefined {
    const queues = this.#waiting[kind];
    for (const [peer, queue] of queues) {
      const under = this.#peerBytes.get(peer) ?? 0;
      const parcel = queue[0];
      if (under >= this.#host.init.egressPeerBytesMax || parcel === undefined) continue;
      if (!this.#admit(parcel, nowMs)) return 'held';
      queue.shift();
      queues.delete(peer);
      if (queue.length > 0) queues.set(peer, queue);
      this.#waitingBytes[kind] -= parcel.lengthBytes;
      this.#sending.set(parcel.token, parcel);
      this.#peerBytes.set(peer, under + parcel.lengthBytes);
      this.#bytes += parcel.lengthBytes;
      return parcel;
    }
    return undefined;
  }

  #admit(parcel: Parcel<P, T>, nowMs: number): boolean {
    const throttle = this.#throttle;
    if (throttle === undefined || throttle.admit(parcel.kind, parcel.lengthBytes, nowMs)) {
      return true;
    }
    if (this.#upload !== undefined && this.#upload.atMs <= throttle.retryMs) return false;
    if (this.#upload !== undefined) this.#upload.action = undefined;
    this.#upload = this.#host.timers.set(throttle.retryMs, { type: 'upload' });
    return false;
  }
}
