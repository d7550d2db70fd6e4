import type { BlobOrigin } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import type { Clock } from '../runtime/clock.ts';
import { within } from '../runtime/deadline.ts';
import { OriginError, type BlobStat } from '../transfer/contracts/origin.ts';
import { ExpiringMap } from '../util/expiring-map.ts';
import { orAbort } from '../util/or-abort.ts';
import { SingleFlight } from '../util/single-flight.ts';

/**
 * How long an answer about a blob holds. A root remembers it for another `FACTS_MS`
 * (edge/access/authority.ts): a blob that is no longer public stays open at a root for at most
 * the sum, ten minutes, and at a host that opened it for five more. (tunable)
 */
const LIFE_MS = 300_000;

/** Blobs remembered: as many as an agent knows at a time (transfer/core/core.ts). */
const BLOBS_MAX = 16_384;

/** Longest wait of any caller for an answer; below that of a read. */
const STAT_MS_MAX = 20_000;

type Ask = (digest: Digest, origin: BlobOrigin, signal: AbortSignal) => Promise<BlobStat>;

/**
 * Sizes of blobs, and who may read them, asked once for all that want to know at the same time, and
 * remembered for minutes.
 */
export class StatCache {
  readonly #clock: Clock;
  readonly #ask: Ask;
  readonly #known: ExpiringMap<BlobStat>;
  readonly #asking = new SingleFlight<string, BlobStat>();

  constructor(components: { clock: Clock }, ask: Ask) {
    this.#clock = components.clock;
    this.#ask = ask;
    this.#known = new ExpiringMap(components, { entriesMax: BLOBS_MAX });
  }

  /**
   * Rejects with what asking rejects with, unless nobody could tell and an older answer is
   * remembered; or with the signal's reason.
   */
  async stat(digest: Digest, origin: BlobOrigin, signal: AbortSignal): Promise<BlobStat> {
    const key = `${origin.registry}/${origin.repository}@${digest}`;
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const ask = async (limit: AbortSignal): Promise<BlobStat> => {
      const reply = await this.#ask(digest, origin, limit);
      this.#known.set(key, reply, LIFE_MS);
      return reply;
    };
    const asking = this.#asking.run(key, () => within(this.#clock, STAT_MS_MAX, ask));
    try {
      return await orAbort(asking, signal);
    } catch (error) {
      signal.throwIfAborted();
      const old = this.#known.getStale(key);
      const isAway =
        !(error instanceof OriginError) ||
        error.code === 'unavailable' ||
        error.code === 'protocol';
      if (old === undefined || !isAway) throw error;
      return old;
    }
  }
}
