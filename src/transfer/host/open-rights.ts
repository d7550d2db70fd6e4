import type { OpenBlobsInit, OpenRefusal, RightKey } from './open-blob-types.ts';
import { SmallMap } from '../../util/small-map.ts';

/** A definite no is remembered this long: clients repeat a request several times. (tunable) */
export const REFUSED_MS = 5_000;

/** Requests that wait when nobody could be asked are told so together. */
const UNCHECKED_MS = 100;

/** How long an older yes waits for the origin, and how long it counts then. (tunable) */
const PATIENCE_MS = 2_000;
const STALE_MS = 60_000;

/** Maximum number of rights for one blob: clients of one host have credentials of their own. */
const RIGHTS_MAX = 256;

/** Questions in flight to the origin about rights to one blob; other requests wait. (tunable) */
const PROBES_MAX = 16;

/** What the origin said of one right to one blob. */
export interface Right {
  state: 'unknown' | 'probing' | 'accepted' | 'refused';
  /** Of `accepted` and `refused`; 0 when nothing was said. */
  untilMs: number;
  /** While the origin cannot be asked, an older yes counts until then; 0 when there is none. */
  staleUntilMs: number;
  /** The question in flight was asked then. */
  askedMs: number;
  /** The last question had no answer. */
  isUnanswered: boolean;
  refusal: OpenRefusal | undefined;
}

/** The rights that clients of this host have shown for one blob. Time is passed in. */
export class OpenRights {
  readonly #init: Pick<OpenBlobsInit, 'acceptMs' | 'staleMs'>;
  /** In the order of use. */
  readonly #rights = new SmallMap<RightKey, Right>();
  /** Questions in flight. */
  #probing = 0;

  constructor(init: Pick<OpenBlobsInit, 'acceptMs' | 'staleMs'>) {
    this.#init = init;
  }

  /** The right as it stands now; a verdict that has expired is `unknown`. */
  get(key: RightKey, nowMs: number): Right {
    const known = this.#touch(key);
    const isOver = known !== undefined && known.state !== 'probing' && nowMs >= known.untilMs;
    if (known !== undefined) {
      if (isOver) known.state = 'unknown';
      if (isOver && known.refusal !== undefined) {
        known.refusal = undefined;
        known.untilMs = 0;
      }
      return known;
    }
    const right: Right = {
      state: 'unknown',
      untilMs: 0,
      staleUntilMs: 0,
      askedMs: 0,
      isUnanswered: false,
      refusal: undefined,
    };
    this.#makeRoom();
    this.#rights.set(key, right);
    return right;
  }

  peek(key: RightKey): Right | undefined {
    return this.#rights.get(key);
  }

  /** Whether a right waits for its turn: nothing is known of it, and others are asked about. */
  mustWait(key: RightKey): boolean {
    return !this.mayProbe && !this.#rights.has(key);
  }

  /** Whether the origin may be asked about one more right now. */
  get mayProbe(): boolean {
    return this.#probing < PROBES_MAX;
  }

  isAccepted(key: RightKey, nowMs: number): boolean {
    const right = this.#touch(key);
    return right?.state === 'accepted' && nowMs < right.untilMs;
  }

  /** Rights were shown for other content. */
  clear(): void {
    this.#rights.clear();
    this.#probing = 0;
  }

  accept(right: Right, nowMs: number): void {
    this.#setState(right, 'accepted');
    right.refusal = undefined;
    // Also of 0: it counts for those that wait for just this answer.
    right.untilMs = nowMs + Math.max(1, this.#init.acceptMs);
    right.staleUntilMs = right.untilMs + this.#init.staleMs;
    right.isUnanswered = false;
  }

  refuse(right: Right, refusal: OpenRefusal, nowMs: number): void {
    this.#setState(right, 'refused');
    right.refusal = refusal;
    right.isUnanswered = refusal.code === 'unchecked';
    // Nor may a client that has the origin not asked keep an older yes.
    if (refusal.code !== 'unchecked' && refusal.code !== 'rate-limited') right.staleUntilMs = 0;
    // What nobody could tell is no answer: the next request asks again.
    right.untilMs = nowMs + memoryMs(refusal);
  }

  /** Asks the origin; gives the time at which an older yes counts in place of its answer. */
  asks(right: Right, nowMs: number): number | undefined {
    this.#setState(right, 'probing');
    right.askedMs = nowMs;
    if (nowMs >= right.staleUntilMs) return undefined;
    return right.isUnanswered ? nowMs : nowMs + PATIENCE_MS;
  }

  /** Whether an older yes counts: the origin is asked, and has let the client wait long enough. */
  isStale(right: Right, nowMs: number): boolean {
    if (right.state !== 'probing' || nowMs >= right.staleUntilMs) return false;
    return right.isUnanswered || nowMs >= right.askedMs + PATIENCE_MS;
  }

  /** The origin is away: a right that it accepted not too long ago still counts. */
  keepStale(right: Right, nowMs: number): void {
    right.isUnanswered = true;
    if (nowMs >= right.staleUntilMs) {
      return this.refuse(right, { code: 'unchecked', silent: [] }, nowMs);
    }
    this.#setState(right, 'accepted');
    right.untilMs = Math.min(right.staleUntilMs, nowMs + STALE_MS);
  }

  #setState(right: Right, state: Right['state']): void {
    if (right.state === 'probing') this.#probing--;
    if (state === 'probing') this.#probing++;
    right.state = state;
  }

  /** Marks the right as used last. */
  #touch(key: RightKey): Right | undefined {
    const right = this.#rights.get(key);
    if (right === undefined) return undefined;
    this.#rights.delete(key);
    this.#rights.set(key, right);
    return right;
  }

  /**
   * Anybody can show rights that are none, so those go first, and accepted ones last. A question in
   * flight is kept, or its answer would be lost and it would be asked again without end.
   */
  #makeRoom(): void {
    if (this.#rights.size < RIGHTS_MAX) return;
    const isNone = ({ state }: Right): boolean => state === 'unknown' || state === 'refused';
    const rights = [...this.#rights];
    const out = rights.find(([, right]) => isNone(right));
    const [key] = out ?? rights.find(([, { state }]) => state === 'accepted') ?? [];
    if (key !== undefined) this.#rights.delete(key);
  }
}

/** How long a refusal counts. A registry that asks for patience has not refused anything. */
function memoryMs(refusal: OpenRefusal): number {
  if (refusal.code === 'unchecked' || refusal.code === 'undecided') return UNCHECKED_MS;
  if (refusal.code !== 'rate-limited') return REFUSED_MS;
  return Math.min(REFUSED_MS, Math.max(UNCHECKED_MS, refusal.retryAfterMs));
}
