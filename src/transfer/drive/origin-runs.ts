import { BLOCK_SIZE_BYTES, blockCount, blockLength, type BlockIndex } from '../../image/block.ts';
import type { Clock, Timer } from '../../runtime/clock.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import type { BufferPool, PooledBytes } from '../../util/buffer-pool.ts';
import { Scatter } from '../../util/scatter.ts';
import type { Origin, OriginBlob } from '../contracts/origin.ts';
import type { AttemptId } from '../core/effects.ts';

/** Blocks of one request: 4 MiB. (tunable) */
const RUN_BLOCKS_MAX = 16;

/**
 * Prefetches gather: up to this number, or until no further one of the run came for the first of
 * these times, or the run is the second one old. So a reader that takes block after block does not
 * cost a request for each. With 8, a pull of six layers at once took 194 requests of 1,462 blocks;
 * with 12, 155. (tunable)
 */
const RUN_BLOCKS_MIN = 12;
const GATHER_MS = 5;
const GATHER_MS_MAX = 300;

/**
 * In place of the first of them, for a run that goes on where an earlier one ended: its reader has
 * blocks in hand. A slow host asks for one in some 10 ms.
 */
const GATHER_BEHIND_MS = 60;

/** Blobs of which the end of the last run is remembered. */
const ENDS_MAX = 256;

/** Requests for prefetches of one blob in flight; demand reads wait for none. (tunable) */
const RUNS_MAX = 4;

/** A block to be read from its origin. */
export interface WantedBlock {
  readonly attempt: AttemptId;
  readonly blob: OriginBlob;
  readonly index: BlockIndex;
  /** Something waits for it: the request leaves at once. */
  readonly isUrgent: boolean;
}

interface Wish {
  readonly attempt: AttemptId;
  readonly index: BlockIndex;
  readonly sinceMs: number;
  isUrgent: boolean;
  readonly resolve: (payload: PooledBytes) => void;
  readonly reject: (error: unknown) => void;
}

/** A request in flight: adjacent blocks. */
interface Run {
  readonly wishes: readonly Wish[];
  /** Wishes that nobody gave up, and whose block has not come. */
  readonly open: Set<Wish>;
  readonly abort: AbortController;
  /** One of its blocks is asked for again beside it: it takes no place any more. */
  isLate: boolean;
}

interface Source {
  readonly key: string;
  readonly blob: OriginBlob;
  readonly waiting: Set<Wish>;
  readonly runs: Set<Run>;
  timer: Timer | undefined;
}

/**
 * Reads blocks from their origins in runs: adjacent blocks that are wanted at the same time go out
 * as one request, and each is handed on as soon as it has come. Demand reads go out at once, others
 * gather for a moment. A registry bills, limits and delays by the request.
 */
export class OriginRuns {
  readonly #origin: Pick<Origin, 'readInto'>;
  readonly #pool: BufferPool;
  readonly #clock: Clock;
  readonly #onProgress: (attempts: readonly AttemptId[]) => void;
  /** By blob, size, place and kind of way. */
  readonly #sources = new Map<string, Source>();
  readonly #wishes = new Map<AttemptId, { readonly wish: Wish; readonly source: Source }>();
  /** By blob and so on: the block behind the last run. */
  readonly #ends = new BoundedMap<string, number>({ entriesMax: ENDS_MAX, evict: 'use' });

  /** `onProgress`: a block came before these, by the same request or one that they wait for. */
  constructor(
    components: {
      readonly origin: Pick<Origin, 'readInto'>;
      readonly pool: BufferPool;
      readonly clock: Clock;
    },
    init: { readonly onProgress: (attempts: readonly AttemptId[]) => void },
  ) {
    this.#origin = components.origin;
    this.#pool = components.pool;
    this.#clock = components.clock;
    this.#onProgress = init.onProgress;
  }

  /** Blocks that have not come yet. */
  get count(): number {
    return this.#wishes.size;
  }

  /**
   * The bytes of the block, which the caller releases. Rejects with OriginError, or with the
   * signal's reason.
   */
  async read(wanted: WantedBlock, signal: AbortSignal): Promise<PooledBytes> {
    signal.throwIfAborted();
    const { attempt, blob, index, isUrgent } = wanted;
    const { promise, resolve, reject } = Promise.withResolvers<PooledBytes>();
    const sinceMs = this.#clock.nowMs();
    const wish: Wish = { attempt, index, sinceMs, isUrgent, resolve, reject };
    const source = this.#sourceOf(blob);
    const onAbort = (): void => {
      this.#giveUp(source, wish);
      reject(signal.reason);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    this.#wishes.set(attempt, { wish, source });
    source.waiting.add(wish);
    for (const run of source.runs)
      run.isLate ||= [...run.open].some((each) => each.index === index);
    queueMicrotask(() => this.#send(source));
    try {
      return await promise;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** Something waits for the block now. */
  promote(attempt: AttemptId): void {
    const known = this.#wishes.get(attempt);
    if (known === undefined || known.wish.isUrgent) return;
    known.wish.isUrgent = true;
    if (known.source.waiting.has(known.wish)) queueMicrotask(() => this.#send(known.source));
  }

  #sourceOf(blob: OriginBlob): Source {
    // What is known of a blob may change while a read of it hangs: no later read shares that.
    const { digest, sizeBytes, origin, isOwnWay = false } = blob;
    const key = JSON.stringify([digest, sizeBytes, origin, isOwnWay]);
    const known = this.#sources.get(key);
    if (known !== undefined) return known;
    const runs = { waiting: new Set<Wish>(), runs: new Set<Run>(), timer: undefined };
    const source: Source = { key, blob, ...runs };
    this.#sources.set(key, source);
    return source;
  }

  #giveUp(source: Source, wish: Wish): void {
    source.waiting.delete(wish);
    this.#wishes.delete(wish.attempt);
    for (const run of source.runs) {
      if (run.open.delete(wish) && run.open.size === 0) run.abort.abort();
    }
    if (source.waiting.size === 0) this.#send(source);
  }

  /** Sends what may go now; later what gathers. */
  #send(source: Source): void {
    source.timer?.cancel();
    source.timer = undefined;
    const nowMs = this.#clock.nowMs();
    let nextMs = Number.POSITIVE_INFINITY;
    for (const wishes of adjacent([...source.waiting.values()])) {
      const dueMs = this.#dueMs(source, wishes);
      if (dueMs > nowMs) {
        nextMs = Math.min(nextMs, dueMs);
        continue;
      }
      for (const wish of wishes) source.waiting.delete(wish);
      void this.#run(source, wishes);
    }
    if (nextMs < Number.POSITIVE_INFINITY) {
      source.timer = this.#clock.setTimer(nextMs - nowMs, () => this.#send(source));
    }
    if (source.waiting.size > 0 || source.runs.size > 0) return;
    this.#sources.delete(source.key);
  }

  /** Time from which the run may go; infinite while it waits for the end of another. */
  #dueMs({ key, blob, runs }: Source, wishes: readonly Wish[]): number {
    const [first, last] = [wishes[0], wishes.at(-1)];
    if (first === undefined || last === undefined) return Number.POSITIVE_INFINITY;
    if (first.isUrgent || wishes.length === RUN_BLOCKS_MAX) return 0;
    const timely = [...runs].filter(({ isLate }) => !isLate);
    if (timely.length >= RUNS_MAX) return Number.POSITIVE_INFINITY;
    const isLast = last.index === blockCount(blob.sizeBytes) - 1;
    if (wishes.length >= RUN_BLOCKS_MIN || isLast) return 0;
    const goesOn = first.index === this.#ends.get(key);
    const sinceMs = wishes.map((wish) => wish.sinceMs);
    const idleMs = goesOn ? GATHER_BEHIND_MS : GATHER_MS;
    return Math.min(Math.min(...sinceMs) + GATHER_MS_MAX, Math.max(...sinceMs) + idleMs);
  }

  async #run(source: Source, wishes: readonly Wish[]): Promise<void> {
    const { blob, runs } = source;
    const abort = new AbortController();
    const run: Run = { wishes, open: new Set(wishes), abort, isLate: false };
    runs.add(run);
    const [first] = wishes;
    if (first?.isUrgent === false) this.#ends.set(source.key, first.index + wishes.length);
    // Those of blocks that nobody wants any more are written to all the same.
    const payloads = new Map(
      wishes.map((wish) => [wish, this.#pool.acquire(blockLength(blob.sizeBytes, wish.index))]),
    );
    const come = (wish: Wish | undefined): void => {
      const payload = wish && payloads.get(wish);
      if (wish === undefined || payload === undefined || !run.open.delete(wish)) return;
      payloads.delete(wish);
      this.#wishes.delete(wish.attempt);
      wish.resolve(payload);
      const behind = [...run.open, ...source.waiting];
      if (behind.length > 0) this.#onProgress(behind.map(({ attempt }) => attempt));
    };
    const last = wishes.length - 1;
    const targets = [...payloads.values()].map(({ bytes }) => bytes);
    // What came last the origin may still find wrong.
    const target = new Scatter(targets, (at) => at < last && come(wishes[at]));
    const offset = (wishes[0]?.index ?? 0) * BLOCK_SIZE_BYTES;
    let failure: unknown;
    try {
      await this.#origin.readInto(blob, offset, target, run.abort.signal);
      come(wishes[last]);
    } catch (error) {
      failure = error;
    }
    runs.delete(run);
    for (const wish of run.open) {
      this.#wishes.delete(wish.attempt);
      wish.reject(failure);
    }
    for (const payload of payloads.values()) payload.release();
    this.#send(source);
  }
}

/** Runs of adjacent blocks, each as long as one request may be; an urgent block begins a run. */
function adjacent(waiting: readonly Wish[]): readonly (readonly Wish[])[] {
  const runs: Wish[][] = [];
  for (const wish of waiting.toSorted((a, b) => a.index - b.index)) {
    const run = runs.at(-1);
    const before = run?.at(-1);
    const goesOn =
      run !== undefined &&
      before?.index === wish.index - 1 &&
      run.length < RUN_BLOCKS_MAX &&
      (before.isUrgent || !wish.isUrgent);
    if (goesOn) run.push(wish);
    else runs.push([wish]);
  }
  return runs;
}
