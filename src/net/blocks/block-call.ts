import type { AttestedBlock } from '../../image/attested-block.ts';
import type { Clock, Timer } from '../../runtime/clock.ts';
import {
  peerError,
  type BlockRequest,
  type PeerErrorDetail,
  type PendingBlock,
} from '../../transfer/contracts/transport.ts';
import type { ReadKind } from '../../transfer/contracts/blob-reader.ts';
import type { PeerId } from '../../util/peer-id.ts';
import type { LaneName } from '../wire/frames.ts';
import type { NetMetrics } from '../metrics.ts';

/** What a call asks of the requester that it belongs to. */
export interface CallOwner {
  onPromoted(call: BlockCall): void;
  /** The call has ended without an answer, by its caller or its deadline. */
  onGivenUp(call: BlockCall): void;
}

/**
 * One block asked of a peer, from the call to its end: an answer, an error, the deadline or
 * `cancel()`.
 */
export class BlockCall implements PendingBlock {
  readonly answer: Promise<AttestedBlock>;
  readonly request: BlockRequest;
  /** Number and stream of the request once it was sent. */
  sent: { readonly id: number; readonly lane: LaneName } | undefined;
  /**
   * When it was given up, in milliseconds of the clock; its credit comes back only when the peer
   * answers.
   */
  givenUpMs: number | undefined;
  /** Its answer is arriving. */
  arriving = false;
  #kind: ReadKind;
  #ended = false;
  readonly #owner: CallOwner;
  readonly #peer: PeerId;
  readonly #clock: Clock;
  readonly #metrics: NetMetrics;
  readonly #startMs: number;
  readonly #timer: Timer;
  readonly #settle: PromiseWithResolvers<AttestedBlock>;

  constructor(
    components: { readonly clock: Clock; readonly metrics: NetMetrics },
    init: { readonly owner: CallOwner; readonly peer: PeerId; readonly request: BlockRequest },
  ) {
    this.#clock = components.clock;
    this.#metrics = components.metrics;
    this.#owner = init.owner;
    this.#peer = init.peer;
    this.request = init.request;
    this.#kind = init.request.kind;
    this.#startMs = this.#clock.nowMs();
    this.#settle = Promise.withResolvers();
    this.answer = this.#settle.promise;
    // A caller that cancelled need not look at the answer any more.
    this.answer.catch(() => {});
    this.#timer = this.#clock.setTimer(this.request.timeoutMs, () => this.#giveUp('timeout'));
  }

  get kind(): ReadKind {
    return this.#kind;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** Milliseconds until the deadline. */
  get remainingMs(): number {
    return this.#startMs + this.request.timeoutMs - this.#clock.nowMs();
  }

  promote(): void {
    if (this.#ended || this.#kind === 'demand') return;
    this.#kind = 'demand';
    this.#owner.onPromoted(this);
  }

  cancel(): void {
    this.#giveUp('cancelled');
  }

  resolve(answer: AttestedBlock): void {
    this.#end('ok');
    this.#metrics.answerSeconds.observe(
      { kind: this.#kind },
      (this.#clock.nowMs() - this.#startMs) / 1000,
    );
    this.#settle.resolve(answer);
  }

  reject(detail: PeerErrorDetail, cause?: unknown): void {
    if (this.#ended) return;
    this.#end(detail.code);
    this.#settle.reject(peerError(this.#peer, detail, cause));
  }

  #giveUp(code: 'timeout' | 'cancelled'): void {
    if (this.#ended) return;
    this.givenUpMs = this.#clock.nowMs();
    this.reject({ code });
    this.#owner.onGivenUp(this);
  }

  #end(outcome: string): void {
    this.#ended = true;
    this.#timer.cancel();
    this.#metrics.requests.inc({ kind: this.#kind, outcome });
  }
}
