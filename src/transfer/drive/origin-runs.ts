import { BLOCK_SIZE_BYTES, blockLength, type BlockIndex } from '../../image/block.ts';
import type { BufferPool, PooledBytes } from '../../util/buffer-pool.ts';
import { Scatter } from '../../util/scatter.ts';
import type { Origin, OriginBlob } from '../contracts/origin.ts';
import type { AttemptId } from '../core/effects.ts';

/** Blocks of one request: 4 MiB. (tunable) */
const RUN_BLOCKS_MAX = 16;

/**
 * Prefetches that go on behind a request in flight gather: up to this number, or until at most
 * `TAIL_BLOCKS` of that request are missing. So a reader that takes block after block does not cost
 * a request for each. (tunable)
 */
const RUN_BLOCKS_MIN = 8;
const TAIL_BLOCKS = 2;

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
}

/**
 * Reads blocks from their origins in runs: adjacent blocks that are wanted at the same time go out
 * as one request, and each is handed on as soon as it has come. A registry bills, limits and delays
 * by the request.
 */
export class OriginRuns {
  readonly #origin: Pick<Origin, 'readInto'>;
  readonly #pool: BufferPool;
  readonly #onProgress: (attempts: readonly AttemptId[]) => void;
  /** By blob, size, place and kind of way. */
  readonly #sources = new Map<string, Source>();
  readonly #wishes = new Map<AttemptId, { readonly wish: Wish; readonly source: Source }>();

  /** `onProgress`: a block came before these, by the same request or one that they wait for. */
  constructor(
    components: { readonly origin: Pick<Origin, 'readInto'>; readonly pool: BufferPool },
    init: { readonly onProgress: (attempts: readonly AttemptId[]) => void },
  ) {
    this.#origin = components.origin;
    this.#pool = components.pool;
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
    const wish: Wish = { attempt, index, isUrgent, resolve, reject };
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
    const source: Source = { key, blob, waiting: new Set(), runs: new Set() };
    this.#sources.set(key, source);
    return source;
  }

  #giveUp(source: Source, wish: Wish): void {
    source.waiting.delete(wish);
    this.#wishes.delete(wish.attempt);
    for (const run of source.runs) {
      if (run.open.delete(wish) && run.open.size === 0) run.abort.abort();
    }
  }

  /** Sends what may go now. */
  #send(source: Source): void {
    for (const wishes of adjacent([...source.waiting.values()])) {
      if (!this.#mayGo(source, wishes)) continue;
      for (const wish of wishes) source.waiting.delete(wish);
      void this.#run(source, wishes);
    }
    if (source.waiting.size > 0 || source.runs.size > 0) return;
    this.#sources.delete(source.key);
  }

  #mayGo({ runs }: Source, wishes: readonly Wish[]): boolean {
    const [first] = wishes;
    if (first?.isUrgent === true || wishes.length === RUN_BLOCKS_MAX) return true;
    const timely = [...runs].filter(({ isLate }) => !isLate);
    if (timely.length >= RUNS_MAX) return false;
    const isBehind = timely.some(
      (run) => run.open.size > TAIL_BLOCKS && run.wishes.at(-1)?.index === (first?.index ?? 0) - 1,
    );
    return !isBehind || wishes.length >= RUN_BLOCKS_MIN;
  }

  async #run(source: Source, wishes: readonly Wish[]): Promise<void> {
    const { blob, runs } = source;
    const abort = new AbortController();
    const run: Run = { wishes, open: new Set(wishes), abort, isLate: false };
    runs.add(run);
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
      if (run.open.size <= TAIL_BLOCKS) this.#send(source);
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
