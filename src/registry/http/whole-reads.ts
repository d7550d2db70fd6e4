import type { Clock, Timer } from '../../runtime/clock.ts';
import { ExpiringMap } from '../../util/expiring-map.ts';
import { orAbort } from '../../util/or-abort.ts';
import { protocolError, RegistryError, type ProtocolFault } from '../errors.ts';
import type { BlobRun } from './blob-range.ts';
import type { BodySink, Flow } from './message.ts';

/** Bytes kept of a transfer after they have passed, for reads that come a little late. (tunable) */
const RECENT_BYTES_MAX = 8 * 1024 * 1024;

/**
 * Transfers of one blob at a time: one for readers that go on, one for readers that begin or go
 * back.
 */
const BLOB_TRANSFERS_MAX = 2;

/**
 * Transfers in all, each with its recent bytes. A read that needs one more waits until one that
 * nobody wants anything of gives way, or one ends.
 */
const TRANSFERS_MAX = 8;

/**
 * A server that ignored the range for a blob, or sent no sound part twice, is taken to do so again
 * for this long; a cache that has filled may honour it then. (tunable)
 */
const RANGELESS_MS = 60_000;
const RANGELESS_MAX = 1024;

/**
 * One that sent all of a blob when it was asked for its first byte is taken to do so again for this
 * long: the read that follows is one transfer. (tunable)
 */
const WHOLE_MS = 2_000;

/** What servers do that cannot send a part of a blob, and may still send all of it. */
const RANGE_FAULTS: ReadonlySet<ProtocolFault> = new Set<ProtocolFault>([
  'range-ignored',
  'range-broken',
]);

/** A transfer that nobody wants anything of is broken off after this long. (tunable) */
const IDLE_MS_MAX = 10_000;

/**
 * Sends a request for a whole blob whose body goes to the sink that `open` gives; resolves when it
 * has ended.
 */
export type Transfer = (open: (flow: Flow) => BodySink, signal: AbortSignal) => Promise<unknown>;

interface Waiter extends BlobRun {
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** Blobs of which no sound part came when a range was asked for, for all views of a registry. */
export class Rangeless {
  readonly #blobs: ExpiringMap<true>;

  constructor(components: { readonly clock: Clock }) {
    this.#blobs = new ExpiringMap(components, { entriesMax: RANGELESS_MAX });
  }

  has(key: string): boolean {
    return this.#blobs.get(key) === true;
  }

  /** A read was refused a part. */
  add(key: string): void {
    this.#blobs.set(key, true, RANGELESS_MS);
  }

  /** The question for the size was answered with the whole blob. */
  addForNow(key: string): void {
    if (!this.has(key)) this.#blobs.set(key, true, WHOLE_MS);
  }
}

/**
 * Reads parts of blobs from servers that ignore ranges: the blob is transferred once, from its
 * start, and cut up for all waiting readers. It flows only as far as a reader wants it; bytes that
 * no reader wants are dropped.
 */
export class WholeReads {
  readonly #clock: Clock;
  readonly #running = new Map<string, Set<WholeTransfer>>();
  readonly #rangeless: Rangeless;
  #count = 0;
  #changed = Promise.withResolvers<void>();

  constructor(components: { readonly clock: Clock; readonly rangeless?: Rangeless | undefined }) {
    this.#clock = components.clock;
    this.#rangeless = components.rangeless ?? new Rangeless(components);
  }

  /**
   * Runs the request for a range, unless the server is known to have no sound ranges of this blob.
   * False when that is so: the blob is to be read by `read()`.
   */
  async ranged(key: string, request: () => Promise<void>): Promise<boolean> {
    if (this.#rangeless.has(key)) return false;
    try {
      await request();
      return true;
    } catch (error) {
      const detail = error instanceof RegistryError ? error.detail : undefined;
      if (detail?.code !== 'protocol' || !RANGE_FAULTS.has(detail.fault)) throw error;
      this.#rangeless.add(key);
      return false;
    }
  }

  /**
   * Fills the target; nothing is written to it after the call has settled. `key` names the blob at
   * its server. Rejects with what the transfer rejects with, or with the signal's reason.
   */
  async read(key: string, range: BlobRun, transfer: Transfer, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const waiter: Waiter = { ...range, resolve, reject };
    let chosen = this.#place(key, range, transfer);
    while (chosen === undefined) {
      await orAbort(this.#changed.promise, signal);
      chosen = this.#place(key, range, transfer);
    }
    const joined = chosen;
    const onAbort = (): void => {
      joined.leave(waiter);
      reject(signal.reason as Error);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    joined.join(waiter);
    try {
      await promise;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** The one that comes by the offset first. */
  #choose(running: ReadonlySet<WholeTransfer>, offset: number): WholeTransfer | undefined {
    const ahead = [...running].filter((each) => each.startBytes <= offset);
    return ahead.toSorted((a, b) => b.startBytes - a.startBytes)[0];
  }

  /** A transfer that has, or will have, what the read wants; undefined while there is no room. */
  #place(key: string, range: BlobRun, transfer: Transfer): WholeTransfer | undefined {
    const running = this.#running.get(key) ?? new Set();
    const chosen = this.#choose(running, range.offset + range.target.filled);
    if (chosen !== undefined) return chosen;
    if (running.size >= BLOB_TRANSFERS_MAX) stopIdle(running);
    else if (this.#count >= TRANSFERS_MAX) {
      stopIdle([...this.#running.values()].flatMap((ofBlob) => [...ofBlob]));
    }
    if (running.size >= BLOB_TRANSFERS_MAX || this.#count >= TRANSFERS_MAX) return undefined;
    return this.#begin(key, running, transfer, range.sizeBytes);
  }

  /** A transfer has ended, or nobody wants anything of it. */
  #change(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }

  #begin(
    key: string,
    running: Set<WholeTransfer>,
    transfer: Transfer,
    sizeBytes: number,
  ): WholeTransfer {
    const onEnd = (): void => {
      if (!running.delete(begun)) return;
      this.#count--;
      if (running.size === 0 && this.#running.get(key) === running) this.#running.delete(key);
      this.#change();
    };
    const onIdle = (): void => this.#change();
    const begun = new WholeTransfer({ clock: this.#clock, onEnd, onIdle }, { sizeBytes });
    running.add(begun);
    this.#running.set(key, running);
    this.#count++;
    begun.run(transfer);
    return begun;
  }
}

/** One transfer of a blob from its start. */
class WholeTransfer implements BodySink {
  readonly #clock: Clock;
  readonly #onEnd: () => void;
  readonly #onIdle: () => void;
  readonly #sizeBytes: number;
  readonly #abort = new AbortController();
  readonly #waiting = new Set<Waiter>();
  #recent: Uint8Array[] = [];
  #recentBytes = 0;
  #positionBytes = 0;
  #idleSinceMs = 0;
  #flow: Flow | undefined;
  #idle: Timer | undefined;

  constructor(
    components: {
      readonly clock: Clock;
      readonly onEnd: () => void;
      readonly onIdle: () => void;
    },
    init: { readonly sizeBytes: number },
  ) {
    this.#clock = components.clock;
    this.#onEnd = components.onEnd;
    this.#onIdle = components.onIdle;
    this.#sizeBytes = init.sizeBytes;
  }

  /** From here on it has, or will have, every byte. */
  get startBytes(): number {
    return this.#positionBytes - this.#recentBytes;
  }

  get isIdle(): boolean {
    return this.#waiting.size === 0;
  }

  /** Of the clock. */
  get idleSinceMs(): number {
    return this.#idleSinceMs;
  }

  run(transfer: Transfer): void {
    const open = (flow: Flow): BodySink => {
      this.#flow = flow;
      return this;
    };
    transfer(open, this.#abort.signal).then(
      () => this.#complete(),
      (error: unknown) => this.#end(error),
    );
  }

  join(waiter: Waiter): void {
    let at = this.startBytes;
    for (const piece of this.#recent) {
      copyOverlap(piece, at, waiter);
      at += piece.length;
    }
    if (waiter.target.isFull) return waiter.resolve();
    this.#waiting.add(waiter);
    this.#idle?.cancel();
    this.#flow?.resume();
  }

  leave(waiter: Waiter): void {
    if (this.#waiting.delete(waiter)) this.#rest();
  }

  stop(): void {
    this.#abort.abort(new Error('nobody wants more of the blob'));
    this.#end(this.#abort.signal.reason);
  }

  write(piece: Uint8Array): boolean {
    const at = this.#positionBytes;
    this.#positionBytes += piece.length;
    for (const waiter of this.#waiting) {
      copyOverlap(piece, at, waiter);
      if (!waiter.target.isFull) continue;
      this.#waiting.delete(waiter);
      waiter.resolve();
    }
    this.#keep(piece);
    this.#rest();
    return true;
  }

  end(): void {}

  cut(): boolean {
    return false;
  }

  #keep(piece: Uint8Array): void {
    this.#recent.push(piece);
    this.#recentBytes += piece.length;
    let dropped = 0;
    while (this.#recentBytes > RECENT_BYTES_MAX) {
      this.#recentBytes -= this.#recent[dropped++]?.length ?? 0;
    }
    if (dropped > 0) this.#recent = this.#recent.slice(dropped);
  }

  /** Stands still while nobody wants more. */
  #rest(): void {
    if (this.#waiting.size > 0) return;
    this.#idleSinceMs = this.#clock.nowMs();
    this.#onIdle();
    if (this.#positionBytes >= this.#sizeBytes) return;
    this.#flow?.pause();
    this.#idle?.cancel();
    this.#idle = this.#clock.setTimer(IDLE_MS_MAX, () => this.stop());
  }

  /** Its last bytes may still be wanted. */
  #complete(): void {
    const isShort = this.#positionBytes < this.#sizeBytes;
    if (isShort) return this.#end(protocolError('short-body', 'the blob ended before its size'));
    this.#idle?.cancel();
    this.#idle = this.#clock.setTimer(IDLE_MS_MAX, () => this.stop());
  }

  #end(error: unknown): void {
    this.#idle?.cancel();
    this.#onEnd();
    for (const waiter of this.#waiting) waiter.reject(error);
    this.#waiting.clear();
  }
}

/** Breaks off the one that has been idle longest. */
function stopIdle(transfers: Iterable<WholeTransfer>): void {
  const idle = [...transfers].filter((each) => each.isIdle);
  idle.toSorted((a, b) => a.idleSinceMs - b.idleSinceMs)[0]?.stop();
}

/** Copies what the piece, which stands at this place of the blob, has of the wanted bytes. */
function copyOverlap(piece: Uint8Array, at: number, { offset, target }: BlobRun): void {
  const first = Math.max(at, offset);
  if (first < at + piece.length) target.write(first - offset, piece.subarray(first - at));
}
