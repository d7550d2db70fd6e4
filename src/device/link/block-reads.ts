import { blockLength, type BlobRef, type BlockIndex } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { Clock, Timer } from '../../runtime/clock.ts';
import type { ReadOptions } from '../../transfer/contracts/blob-reader.ts';
import { assert } from '../../util/assert.ts';
import { backoffMs } from '../../util/backoff.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { isFinal, LinkError, type LinkErrorCode } from './errors.ts';
import { encodeIdFrame, encodeRead, FRAME, type LinkFailure, type LinkLane } from './frames.ts';
import type { Lane } from './lane.ts';
import {
  ANSWER_SHARE,
  BLOCKS_AWAITED_MAX,
  READS_IN_FLIGHT_MAX,
  RECONNECT_MS_MAX,
  RECONNECT_MS_MIN,
  TIMEOUT_MS_MAX,
} from './limits.ts';

/** One reader of a block that is on its way. */
interface Waiter {
  readonly kind: ReadOptions['kind'];
  readonly endsOnNo: boolean;
  readonly deadlineMs: number;
  readonly resolve: (block: Uint8Array) => void;
  readonly reject: (error: LinkError) => void;
}

/** A block on its way. All who want it wait for the one flight. */
interface Flight {
  readonly key: string;
  readonly blob: BlobRef;
  readonly index: BlockIndex;
  readonly startedMs: number;
  readonly waiters: Set<Waiter>;
  /** Where it was asked and has not been answered, by lane. */
  readonly asked: Map<LinkLane, number>;
  /** What failed so far: connections lost, and answers of the agent. */
  lostCount: number;
  failureCount: number;
  failure: LinkFailure | undefined;
  /** Runs while it waits to be asked again. */
  pause: Timer | undefined;
}

interface Components {
  readonly clock: Clock;
  readonly lanes: Readonly<Record<LinkLane, Pick<Lane, 'isUp' | 'why' | 'send'>>>;
  /** Whether the agent has an image open that has the blob. */
  readonly isOpen: (digest: Digest) => boolean;
  /** Numbers what is asked; the same for both lanes. */
  readonly nextId: () => number;
  readonly onTry: (outcome: 'block' | 'failure' | 'lost') => void;
}

interface Init {
  /** Of the agent's socket, for errors. */
  readonly path: string;
  readonly timeoutMs: number;
  readonly blocksKeptMax: number;
}

const LANES: readonly LinkLane[] = ['demand', 'bulk'];

/**
 * Reads whole blocks of the agent: asks once for all who want a block at a time, keeps the blocks
 * used last, and asks again when the connection was lost or the agent failed, until the readers'
 * deadlines.
 *
 * A prefetch is asked on the bulk lane; when a demand read joins it, the block is asked on the
 * demand lane too, and the first answer counts.
 */
export class BlockReads {
  readonly #components: Components;
  readonly #init: Init;
  readonly #flights = new Map<string, Flight>();
  readonly #byId = new Map<number, { readonly lane: LinkLane; flight: Flight | undefined }>();
  readonly #inFlight = { demand: 0, bulk: 0 };
  /** Flights to be asked, in the order of coming. */
  readonly #queues = { demand: new Set<Flight>(), bulk: new Set<Flight>() };
  readonly #kept: BoundedMap<string, Uint8Array>;
  #isStopped = false;

  constructor(components: Components, init: Init) {
    this.#components = components;
    this.#init = init;
    this.#kept = new BoundedMap({ entriesMax: init.blocksKeptMax, evict: 'use' });
  }

  /** Blocks that are waited for. */
  get awaitedCount(): number {
    return this.#flights.size;
  }

  /** The block, if it is in memory. */
  kept(blob: BlobRef, index: BlockIndex): Uint8Array | undefined {
    return this.#kept.get(keyOf(blob, index));
  }

  /** The block, which the caller does not change. Rejects with LinkError. */
  read(blob: BlobRef, index: BlockIndex, options: ReadOptions): Promise<Uint8Array> {
    const key = keyOf(blob, index);
    const kept = this.#kept.get(key);
    if (kept !== undefined) return Promise.resolve(kept);
    const isOver = this.#isStopped || options.signal?.aborted === true;
    if (isOver) return Promise.reject(cancelled(blob, index));
    if (!this.#flights.has(key) && this.#flights.size >= BLOCKS_AWAITED_MAX) {
      const text = `${nameOf(blob, index)} was not read: ${BLOCKS_AWAITED_MAX} blocks are awaited`;
      return Promise.reject(new LinkError(text, { code: 'overloaded' }));
    }
    const flight = this.#flights.get(key) ?? this.#begin(key, blob, index);
    return this.#wait(flight, options);
  }

  /** Asks what waits, as far as there is room. */
  pump(lane: LinkLane): void {
    const { lanes, isOpen, nextId, clock } = this.#components;
    if (!lanes[lane].isUp) return;
    for (const flight of this.#queues[lane]) {
      if (this.#inFlight[lane] >= READS_IN_FLIGHT_MAX[lane]) return;
      if (!isOpen(flight.blob.digest)) continue;
      this.#queues[lane].delete(flight);
      const id = nextId();
      this.#byId.set(id, { lane, flight });
      flight.asked.set(lane, id);
      this.#inFlight[lane]++;
      const { blob, index } = flight;
      const waiters = [...flight.waiters];
      const endsOnNo = waiters.some((waiter) => waiter.endsOnNo);
      const leftMs = Math.max(...waiters.map(({ deadlineMs }) => deadlineMs)) - clock.nowMs();
      const timeoutMs = Math.min(TIMEOUT_MS_MAX, Math.max(1, Math.ceil(leftMs * ANSWER_SHARE)));
      const kind = lane === 'demand' ? 'demand' : 'prefetch';
      lanes[lane].send(encodeRead(id, { kind, endsOnNo, timeoutMs, blob, index }));
    }
  }

  /** Whether the block was asked for. */
  onBlock(id: number, bytes: Uint8Array): boolean {
    const { flight: wanted } = this.#byId.get(id) ?? {};
    if (wanted !== undefined && bytes.length !== blockLength(wanted.blob.sizeBytes, wanted.index)) {
      return this.onError(id, { code: 'failed', text: `it sent ${bytes.length} bytes` });
    }
    if (!this.#byId.has(id)) return false;
    const flight = this.#answered(id);
    if (flight === undefined) return true;
    this.#components.onTry('block');
    this.#kept.set(flight.key, bytes);
    this.#end(flight);
    for (const { resolve } of flight.waiters) resolve(bytes);
    return true;
  }

  /** Whether the failure is of a read. */
  onError(id: number, failure: LinkFailure): boolean {
    if (!this.#byId.has(id)) return false;
    const flight = this.#answered(id);
    if (flight === undefined) return true;
    this.#components.onTry('failure');
    flight.failure = failure;
    flight.failureCount++;
    for (const waiter of flight.waiters) {
      if (!endsWaiter(waiter, failure.code)) continue;
      this.#leave(flight, waiter);
      waiter.reject(this.#failed(flight, failure.code));
    }
    if (flight.waiters.size === 0 || flight.asked.size > 0) return true;
    const pauseMs = backoffMs(flight.failureCount, RECONNECT_MS_MIN, RECONNECT_MS_MAX);
    flight.pause = this.#components.clock.setTimer(pauseMs, () => {
      flight.pause = undefined;
      this.#enqueue(flight);
    });
    return true;
  }

  /** All that was asked on the lane is asked again. */
  onDown(lane: LinkLane): void {
    for (const [id, { lane: at, flight }] of [...this.#byId]) {
      if (at !== lane) continue;
      this.#answered(id);
      if (flight === undefined) continue;
      this.#components.onTry('lost');
      flight.lostCount++;
      this.#enqueue(flight);
    }
    assert(this.#inFlight[lane] === 0, 'a lost connection has nothing in flight');
  }

  /** Rejects all reads, now and later. */
  stop(): void {
    this.#isStopped = true;
    for (const flight of [...this.#flights.values()]) {
      for (const waiter of [...flight.waiters]) {
        this.#leave(flight, waiter);
        waiter.reject(cancelled(flight.blob, flight.index));
      }
    }
    this.#kept.clear();
  }

  #begin(key: string, blob: BlobRef, index: BlockIndex): Flight {
    const flight: Flight = {
      ...{ key, blob, index, startedMs: this.#components.clock.nowMs() },
      ...{ waiters: new Set(), asked: new Map(), lostCount: 0, failureCount: 0 },
      ...{ failure: undefined, pause: undefined },
    };
    this.#flights.set(key, flight);
    return flight;
  }

  #wait(flight: Flight, options: ReadOptions): Promise<Uint8Array> {
    const { clock } = this.#components;
    const { kind, endsOnNo = false, signal } = options;
    const timeoutMs = options.timeoutMs ?? this.#init.timeoutMs;
    return new Promise((resolve, reject) => {
      const ends = (): void => {
        timer.cancel();
        signal?.removeEventListener('abort', onAbort);
      };
      const waiter: Waiter = {
        ...{ kind, endsOnNo, deadlineMs: clock.nowMs() + timeoutMs },
        resolve: (block) => {
          ends();
          resolve(block);
        },
        reject: (error) => {
          ends();
          reject(error);
        },
      };
      const timer = clock.setTimer(timeoutMs, () => {
        const error = this.#failed(flight, 'unreachable');
        this.#leave(flight, waiter);
        waiter.reject(error);
      });
      const onAbort = (): void => {
        this.#leave(flight, waiter);
        waiter.reject(cancelled(flight.blob, flight.index));
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      flight.waiters.add(waiter);
      if (flight.pause === undefined) this.#enqueue(flight);
    });
  }

  /** Puts the flight into the queue of the lane where it belongs, unless it is asked there. */
  #enqueue(flight: Flight): void {
    if (flight.waiters.size === 0 || flight.pause !== undefined) return;
    const isDemand = [...flight.waiters].some(({ kind }) => kind === 'demand');
    const lane = isDemand ? 'demand' : 'bulk';
    if (flight.asked.has(lane) || (lane === 'bulk' && flight.asked.has('demand'))) return;
    this.#queues[lane].add(flight);
    if (isDemand) this.#queues.bulk.delete(flight);
    this.pump(lane);
  }

  /** The last word on what was asked; the flight, if anybody still waits for it. */
  #answered(id: number): Flight | undefined {
    const asked = this.#byId.get(id);
    if (asked === undefined) return undefined;
    const { lane, flight } = asked;
    this.#byId.delete(id);
    this.#inFlight[lane]--;
    flight?.asked.delete(lane);
    if (this.#components.lanes[lane].isUp) this.pump(lane);
    return flight;
  }

  #leave(flight: Flight, waiter: Waiter): void {
    flight.waiters.delete(waiter);
    if (flight.waiters.size === 0) this.#end(flight);
  }

  /** The flight is over; where it is still asked, that is taken back. */
  #end(flight: Flight): void {
    this.#flights.delete(flight.key);
    flight.pause?.cancel();
    for (const lane of LANES) this.#queues[lane].delete(flight);
    for (const [lane, id] of flight.asked) {
      const asked = this.#byId.get(id);
      if (asked !== undefined) asked.flight = undefined;
      const to = this.#components.lanes[lane];
      if (to.isUp) to.send(encodeIdFrame(FRAME.CANCEL, id));
    }
    flight.asked.clear();
  }

  #failed(flight: Flight, code: LinkErrorCode): LinkError {
    const { blob, index } = flight;
    const waitedMs = Math.round(this.#components.clock.nowMs() - flight.startedMs);
    const text =
      `${nameOf(blob, index)} was not read in ${waitedMs} ms through the agent at ` +
      `${this.#init.path}: ${this.#tried(flight).join('; ')}`;
    return new LinkError(text, { code });
  }

  /** What was tried for the flight, in words. */
  #tried({ blob, asked, lostCount, failureCount, failure }: Flight): readonly string[] {
    const { lanes, isOpen } = this.#components;
    return [
      ...(lostCount > 0 ? [`the connection was lost ${lostCount} times`] : []),
      ...(failure !== undefined
        ? [`the agent failed ${failureCount} times, last with ${failure.code}: ${failure.text}`]
        : []),
      ...(asked.size > 0 ? ['it was asked and has not answered'] : []),
      ...(lanes.demand.isUp ? [] : [`there is no connection: ${lanes.demand.why}`]),
      ...(lanes.demand.isUp && !isOpen(blob.digest) ? ['the image is not open there'] : []),
      ...(lanes.demand.isUp && isOpen(blob.digest) && asked.size === 0 && failure === undefined
        ? ['it waited for its turn']
        : []),
    ];
  }
}

function keyOf({ digest, sizeBytes }: BlobRef, index: BlockIndex): string {
  return `${digest} ${sizeBytes} ${index}`;
}

function nameOf({ digest }: BlobRef, index: BlockIndex): string {
  return `block ${index} of ${digest}`;
}

function cancelled(blob: BlobRef, index: BlockIndex): LinkError {
  return new LinkError(`${nameOf(blob, index)} was not read: cancelled`, { code: 'cancelled' });
}

/** Whether the failure is the last word for this reader. A prefetch that fails is no harm yet. */
function endsWaiter({ endsOnNo, kind }: Waiter, code: LinkErrorCode): boolean {
  if (code === 'cancelled' || code === 'unknown-blob') return false;
  return kind === 'prefetch' || code === 'invalid' || (endsOnNo && isFinal(code));
}
