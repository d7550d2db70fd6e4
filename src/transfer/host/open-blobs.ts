import type { BlobOrigin, BlobRef } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { unreachable } from '../../util/assert.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { TimerHeap } from '../../util/timer-heap.ts';
import {
  isWholeRefusal,
  openBlobId,
  type OpenAnswer,
  type OpenBlobsInit,
  type OpenEffect,
  type OpenRefusal,
  type OpenRequest,
  type OpenedBlob,
  type ProbeResult,
  type RightKey,
} from './open-blob-types.ts';

/** The next root is asked too after this long without an answer, in milliseconds. (tunable) */
const NEXT_ROOT_MS = 300;

/**
 * Without any root's answer for this long, a host reads by its client's own way: after the first
 * when every root that is asked did not answer the last time either, else after the second. Slow is
 * not dead: hosts whose roots are busy must not turn on the registry. (tunable)
 */
const OWN_WAY_MS = { lost: 700, slow: 5_000 };

/** Longest wait of a request, all roots and the origin included; below the time of a read. */
const REQUEST_MS_MAX = 15_000;

/** A root's answer is believed for this long; the next request has it asked again. (tunable) */
const ANSWER_MS = 300_000;

/** Time between questions to roots about a blob that no root reaches. (tunable) */
const ALONE_MS = 60_000;

/** The same when no root answered: it is a matter of the roots, and not of the blob. (tunable) */
const UNANSWERED_MS = 5_000;

/** A definite no is remembered this long: clients repeat a request several times. (tunable) */
const REFUSED_MS = 5_000;

/** Maximum number of roots remembered as silent; a cluster has a few. */
const SILENT_MAX = 64;

/** Maximum number of rights for one blob: clients of one host have credentials of their own. */
const RIGHTS_MAX = 64;

interface Right {
  state: 'unknown' | 'probing' | 'accepted' | 'refused';
  /** Of `accepted` and `refused`. */
  untilMs: number;
  refusal: OpenRefusal | undefined;
}

interface Waiter<T> extends OpenRequest<T> {
  readonly deadlineMs: number;
}

/**
 * One blob by one source.
 *
 *     asking --open--> shared        a root knows it: size, key, whether it is public
 *       |  \--no-way, all silent--> alone     only the client's own way; size from its GET
 *       \---refused--> (gone)        a definite no for requests that show nothing of their own
 */
interface Entry<T> {
  readonly id: string;
  readonly digest: Digest;
  readonly origin: BlobOrigin;
  phase: 'asking' | 'shared' | 'alone';
  blob: BlobRef | undefined;
  isPublic: boolean;
  untilMs: number;
  usedMs: number;
  /** Roots of this round that were asked, and those that have not answered yet, by attempt. */
  readonly asked: Set<PeerId>;
  readonly asking: Map<number, PeerId>;
  /** What roots are asked with in this round: the right of the request that began it. */
  right: RightKey;
  /** The refusal of a root, for requests that show nothing of their own. */
  refusal: OpenRefusal | undefined;
  probesItself: boolean;
  readonly rights: BoundedMap<RightKey, Right>;
  readonly waiting: Set<Waiter<T>>;
}

type Timer<T> =
  | { readonly type: 'next-root'; readonly entry: Entry<T> }
  | { readonly type: 'own-way'; readonly entry: Entry<T>; readonly after: 'lost' | 'slow' }
  | { readonly type: 'deadline'; readonly entry: Entry<T>; readonly waiter: Waiter<T> };

type Attempt<T> =
  | { readonly kind: 'root'; readonly entry: Entry<T>; readonly root: PeerId }
  | { readonly kind: 'probe'; readonly entry: Entry<T>; readonly right: RightKey };

/**
 * The blobs that clients of this host have open: the one place that decides size, sharing and
 * rights of a blob here. A reducer with the time as input, in every agent and in the simulator.
 *
 * No client that names a blob decides anything. Size and key are a root's word; without one, the
 * origin's total, for this host alone. A request reads public blobs, and those that the origin
 * gives to *its own* right with the known size. A silent root costs `NEXT_ROOT_MS`.
 */
export class OpenBlobs<T> {
  readonly #init: OpenBlobsInit;
  readonly #ownKey: (blob: BlobRef, origin: BlobOrigin) => Digest;
  readonly #roots: (digest: Digest, origin: BlobOrigin) => readonly PeerId[];
  /** Roots that let a request wait: asked last, until they answer again. */
  readonly #silent = new BoundedMap<PeerId, true>({ entriesMax: SILENT_MAX });
  /** Roots that did not answer at all the last time. */
  readonly #lost = new BoundedMap<PeerId, true>({ entriesMax: SILENT_MAX });
  readonly #entries = new Map<string, Entry<T>>();
  readonly #waiting = new Map<T, { readonly entry: Entry<T>; readonly waiter: Waiter<T> }>();
  readonly #attempts = new Map<number, Attempt<T>>();
  readonly #timers = new TimerHeap<Timer<T>>();
  #effects: OpenEffect<T>[] = [];
  #attemptCount = 0;
  #nowMs = 0;

  constructor(
    /** Roots in the order in which they own the blob's first stripe. */
    components: {
      readonly roots: (digest: Digest, origin: BlobOrigin) => readonly PeerId[];
      /** Names the blocks of a blob that is read alone: `ownWayKey()` of image/blob-key.ts. */
      readonly ownKey: (blob: BlobRef, origin: BlobOrigin) => Digest;
    },
    init: OpenBlobsInit,
  ) {
    this.#roots = components.roots;
    this.#ownKey = components.ownKey;
    this.#init = init;
  }

  /** The effects since the last call, in order. */
  take(): readonly OpenEffect<T>[] {
    const effects = this.#effects;
    if (effects.length > 0) this.#effects = [];
    return effects;
  }

  get nextWakeMs(): number | undefined {
    return this.#timers.nextMs;
  }

  /** Blobs that are open. */
  get count(): number {
    return this.#entries.size;
  }

  /** The blob, if the request may read it at once, without an effect; else undefined. */
  opened(
    request: Pick<OpenRequest<T>, 'digest' | 'origin' | 'right'>,
    nowMs: number,
  ): OpenedBlob | undefined {
    const entry = this.#entries.get(openBlobId(request));
    if (entry?.blob === undefined || entry.phase === 'asking' || nowMs >= entry.untilMs) {
      return undefined;
    }
    const right = entry.rights.get(request.right);
    const isAccepted = right?.state === 'accepted' && nowMs < right.untilMs;
    if (!entry.isPublic && !isAccepted) return undefined;
    this.#use(entry, nowMs);
    return { blob: entry.blob, isShared: entry.phase === 'shared' };
  }

  /** A client asks for a blob; ends in `grant` or `refuse`, unless `cancel()` comes first. */
  request(request: OpenRequest<T>, nowMs: number): void {
    this.#nowMs = nowMs;
    const entry = this.#entry(request);
    this.#use(entry, nowMs);
    const { right, shownBytes } = request;
    if (shownBytes !== undefined) this.#accept(entry, this.#rightOf(entry, right), shownBytes);
    const waiter = { ...request, deadlineMs: nowMs + REQUEST_MS_MAX };
    entry.waiting.add(waiter);
    this.#waiting.set(request.token, { entry, waiter });
    this.#timers.set(waiter.deadlineMs, { type: 'deadline', entry, waiter });
    if (entry.phase !== 'asking' && nowMs >= entry.untilMs) this.#ask(entry, request.right);
    this.#settle(entry);
  }

  /** The client has left; no effect follows for its token. */
  cancel(token: T, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#leave(token);
  }

  /** A root answered `ask-root`. */
  answered(attempt: number, answer: OpenAnswer, nowMs: number): void {
    this.#nowMs = nowMs;
    const found = this.#takeAttempt(attempt, 'root');
    if (found === undefined) return;
    const { entry } = found;
    if (found.kind === 'root') {
      this.#silent.delete(found.root);
      this.#lost.delete(found.root);
    }
    switch (answer.outcome) {
      case 'open':
        this.#share(entry, answer);
        break;
      case 'no-way':
        // The owner, which is late, may still find one.
        if (entry.asking.size === 0) this.#beAlone(entry);
        break;
      case 'refused':
        // A root refuses by its own credentials: a request's own right may still be accepted.
        entry.refusal = isWholeRefusal(answer.refusal) ? answer.refusal : undefined;
        if (answer.refusal.code === 'unchecked') this.#nextRoot(entry);
        else this.#endPublic(entry);
        break;
      default:
        return unreachable(answer);
    }
    this.#settle(entry);
  }

  /** A root did not answer `ask-root`, or refused to talk to this host. */
  rootFailed(attempt: number, nowMs: number): void {
    this.#nowMs = nowMs;
    const found = this.#takeAttempt(attempt, 'root');
    if (found?.kind !== 'root') return;
    this.#lost.set(found.root, true);
    if (found.entry.phase !== 'asking') return;
    this.#nextRoot(found.entry);
    this.#settle(found.entry);
  }

  /** The outcome of `probe`. */
  probed(attempt: number, result: ProbeResult, nowMs: number): void {
    this.#nowMs = nowMs;
    const found = this.#takeAttempt(attempt, 'probe');
    if (found?.kind !== 'probe') return;
    const { entry } = found;
    const right = entry.rights.peek(found.right);
    if (right === undefined) return;
    switch (result.outcome) {
      case 'accepted':
        this.#accept(entry, right, result.sizeBytes);
        break;
      case 'refused':
        this.#refuseRight(right, result.refusal);
        break;
      case 'unreachable':
        this.#keepStale(right);
        break;
      default:
        return unreachable(result);
    }
    this.#settle(entry);
  }

  /** An accepted way is closed (401, 403): the client gets a refusal that it can mend. */
  rightClosed(
    request: Pick<OpenRequest<T>, 'digest' | 'origin' | 'right'>,
    refusal: OpenRefusal,
    nowMs: number,
  ): void {
    this.#nowMs = nowMs;
    const right = this.#entries.get(openBlobId(request))?.rights.peek(request.right);
    if (right !== undefined) this.#refuseRight(right, refusal);
  }

  /** The roots or their connections changed: blobs that are read alone may be shared now. */
  rootsChanged(nowMs: number): void {
    this.#nowMs = nowMs;
    for (const entry of this.#entries.values()) {
      if (entry.phase === 'alone') entry.untilMs = Math.min(entry.untilMs, nowMs);
      if (entry.phase === 'asking' && entry.asking.size === 0) this.#nextRoot(entry);
      this.#settle(entry);
    }
  }

  /** Runs the timers that are due. */
  tick(nowMs: number): void {
    this.#nowMs = nowMs;
    for (
      let due = this.#timers.takeDue(nowMs);
      due !== undefined;
      due = this.#timers.takeDue(nowMs)
    ) {
      this.#onTimer(due);
    }
    this.#closeIdle();
  }

  #onTimer(timer: Timer<T>): void {
    const { entry } = timer;
    switch (timer.type) {
      case 'next-root':
        if (entry.phase === 'asking') this.#nextRoot(entry);
        break;
      case 'own-way':
        if (entry.phase !== 'asking') break;
        entry.probesItself ||=
          timer.after === 'slow' ||
          [...entry.asking.values()].every((root) => this.#lost.has(root));
        break;
      case 'deadline':
        if (!entry.waiting.has(timer.waiter)) return;
        this.#leave(timer.waiter.token);
        return this.#refuse(timer.waiter, this.#unchecked(entry));
      default:
        return unreachable(timer);
    }
    this.#settle(entry);
  }

  #entry(request: OpenRequest<T>): Entry<T> {
    const id = openBlobId(request);
    const known = this.#entries.get(id);
    if (known !== undefined) return known;
    this.#makeRoom();
    const entry: Entry<T> = {
      id,
      digest: request.digest,
      origin: request.origin,
      phase: 'asking',
      blob: undefined,
      isPublic: false,
      untilMs: 0,
      usedMs: this.#nowMs,
      asked: new Set(),
      asking: new Map(),
      right: request.right,
      refusal: undefined,
      probesItself: false,
      rights: new BoundedMap({ entriesMax: RIGHTS_MAX, evict: 'use' }),
      waiting: new Set(),
    };
    this.#entries.set(id, entry);
    this.#ask(entry, request.right);
    return entry;
  }

  /** Starts a round of questions to roots. Meanwhile the known answer stays in use. */
  #ask(entry: Entry<T>, right: RightKey): void {
    if (entry.asking.size > 0) {
      entry.untilMs = this.#nowMs + NEXT_ROOT_MS;
      return;
    }
    if (entry.phase === 'asking' || entry.blob === undefined) entry.phase = 'asking';
    // A known blob stays open while it is asked about again.
    else entry.untilMs = this.#nowMs + NEXT_ROOT_MS;
    entry.asked.clear();
    entry.right = right;
    entry.refusal = undefined;
    entry.probesItself = false;
    for (const after of ['lost', 'slow'] as const) {
      this.#timers.set(this.#nowMs + OWN_WAY_MS[after], { type: 'own-way', entry, after });
    }
    this.#nextRoot(entry);
  }

  #nextRoot(entry: Entry<T>): void {
    for (const late of entry.asking.values()) this.#silent.set(late, true);
    const left = this.#roots(entry.digest, entry.origin).filter((peer) => !entry.asked.has(peer));
    const root = left.find((peer) => !this.#silent.has(peer)) ?? left[0];
    if (root === undefined) {
      // All were asked. Late answers still count.
      if (entry.asking.size === 0 && entry.phase === 'asking') this.#beAlone(entry, UNANSWERED_MS);
      return;
    }
    entry.asked.add(root);
    const attempt = ++this.#attemptCount;
    entry.asking.set(attempt, root);
    this.#attempts.set(attempt, { kind: 'root', entry, root });
    const { digest, origin, right } = entry;
    this.#effects.push({ type: 'ask-root', attempt, root, digest, origin, right });
    this.#timers.set(this.#nowMs + NEXT_ROOT_MS, { type: 'next-root', entry });
  }

  /** A root knows the blob. */
  #share(entry: Entry<T>, answer: OpenAnswer & { outcome: 'open' }): void {
    const { key: digest, sizeBytes, isPublic } = answer;
    const before = entry.blob;
    if (before !== undefined && (before.sizeBytes !== sizeBytes || before.digest !== digest)) {
      this.#effects.push({ type: 'drop', blob: before });
      // Rights that were shown for other content are none.
      if (before.sizeBytes !== sizeBytes) entry.rights.clear();
    }
    entry.blob = { digest, sizeBytes };
    entry.isPublic = isPublic;
    entry.phase = 'shared';
    entry.untilMs = this.#nowMs + ANSWER_MS;
    this.#endRound(entry);
  }

  /** The registry refuses the roots: what it gave to anybody before, each request now shows its own right to. */
  #endPublic(entry: Entry<T>): void {
    if (entry.phase !== 'shared') return this.#beAlone(entry);
    entry.isPublic = false;
    entry.untilMs = this.#nowMs + ANSWER_MS;
    this.#endRound(entry);
  }

  /** No root reaches the blob: its size is what the origin tells this host. */
  #beAlone(entry: Entry<T>, forMs = ALONE_MS): void {
    if (entry.phase === 'shared') return;
    entry.phase = 'alone';
    entry.isPublic = false;
    entry.untilMs = this.#nowMs + forMs;
    this.#endRound(entry);
  }

  #endRound(entry: Entry<T>): void {
    for (const attempt of entry.asking.keys()) {
      this.#attempts.delete(attempt);
      this.#effects.push({ type: 'cancel', attempt });
    }
    entry.asking.clear();
  }

  #accept(entry: Entry<T>, right: Right, sizeBytes: number): void {
    if (entry.blob === undefined) {
      const { digest, origin } = entry;
      entry.blob = { digest: this.#ownKey({ digest, sizeBytes }, origin), sizeBytes };
    } else if (entry.blob.sizeBytes !== sizeBytes) {
      return this.#refuseRight(right, { code: 'other-content', sizeBytes });
    }
    right.state = 'accepted';
    right.refusal = undefined;
    // Also of 0: it counts for those that wait for just this answer.
    right.untilMs = this.#nowMs + Math.max(1, this.#init.acceptMs);
  }

  /** The origin is away: a right that it accepted not too long ago still counts. */
  #keepStale(right: Right): void {
    const isStale = right.untilMs > 0 && this.#nowMs < right.untilMs + this.#init.staleMs;
    if (isStale && right.refusal === undefined) {
      right.state = 'accepted';
      right.untilMs = Math.max(right.untilMs, this.#nowMs + REFUSED_MS);
      return;
    }
    this.#refuseRight(right, { code: 'unchecked', silent: [] });
  }

  #refuseRight(right: Right, refusal: OpenRefusal): void {
    right.state = 'refused';
    right.refusal = refusal;
    right.untilMs = this.#nowMs + REFUSED_MS;
  }

  /** Answers every request that can be answered, and probes the rights that are wanted. */
  #settle(entry: Entry<T>): void {
    for (const waiter of [...entry.waiting]) {
      const outcome = this.#outcomeOf(entry, waiter);
      if (outcome === undefined) continue;
      this.#leave(waiter.token);
      if ('opened' in outcome) {
        this.#effects.push({ type: 'grant', token: waiter.token, opened: outcome.opened });
      } else {
        this.#refuse(waiter, outcome.refusal);
      }
    }
  }

  #outcomeOf(
    entry: Entry<T>,
    waiter: Waiter<T>,
  ): { readonly opened: OpenedBlob } | { readonly refusal: OpenRefusal } | undefined {
    const isShared = entry.phase === 'shared';
    const opened = entry.blob !== undefined && { blob: entry.blob, isShared };
    if (opened !== false && isShared && entry.isPublic) return { opened };
    if (entry.phase === 'asking' && !entry.probesItself) return undefined;
    // The registry has refused the root, which showed at least as much as this request does.
    const isNothingShown = waiter.right === '' && entry.origin.repository !== '';
    if (entry.phase === 'alone' && isNothingShown && entry.refusal !== undefined) {
      return { refusal: entry.refusal };
    }
    const right = this.#rightOf(entry, waiter.right);
    if (right.state === 'accepted' && opened !== false) return { opened };
    if (right.state === 'refused') {
      // An origin that this host cannot reach says nothing while a root may still answer.
      const isOpen = right.refusal?.code === 'unchecked' && entry.asking.size > 0;
      return isOpen ? undefined : { refusal: right.refusal ?? this.#unchecked(entry) };
    }
    if (right.state === 'unknown') this.#probe(entry, waiter.right, right);
    return undefined;
  }

  #rightOf(entry: Entry<T>, key: RightKey): Right {
    const known = entry.rights.get(key);
    const isOver = known !== undefined && known.state !== 'probing' && this.#nowMs >= known.untilMs;
    if (known !== undefined) {
      if (isOver) known.state = 'unknown';
      if (isOver && known.refusal !== undefined) {
        known.refusal = undefined;
        known.untilMs = 0;
      }
      return known;
    }
    const right: Right = { state: 'unknown', untilMs: 0, refusal: undefined };
    entry.rights.set(key, right);
    return right;
  }

  #probe(entry: Entry<T>, key: RightKey, right: Right): void {
    right.state = 'probing';
    const attempt = ++this.#attemptCount;
    this.#attempts.set(attempt, { kind: 'probe', entry, right: key });
    const { digest, origin } = entry;
    this.#effects.push({ type: 'probe', attempt, digest, origin, right: key });
  }

  #unchecked(entry: Entry<T>): OpenRefusal {
    return { code: 'unchecked', silent: [...entry.asking.values(), entry.origin.registry] };
  }

  #refuse(waiter: Waiter<T>, refusal: OpenRefusal): void {
    this.#effects.push({ type: 'refuse', token: waiter.token, refusal });
  }

  #leave(token: T): void {
    const waiting = this.#waiting.get(token);
    if (waiting === undefined) return;
    this.#waiting.delete(token);
    waiting.entry.waiting.delete(waiting.waiter);
  }

  #takeAttempt(attempt: number, kind: Attempt<T>['kind']): Attempt<T> | undefined {
    const found = this.#attempts.get(attempt);
    if (found?.kind !== kind) return undefined;
    this.#attempts.delete(attempt);
    found.entry.asking.delete(attempt);
    return found;
  }

  /** Marks the entry as used last; the map's order is that of use. */
  #use(entry: Entry<T>, nowMs: number): void {
    entry.usedMs = nowMs;
    this.#entries.delete(entry.id);
    this.#entries.set(entry.id, entry);
  }

  #makeRoom(): void {
    if (this.#entries.size < this.#init.entriesMax) return;
    for (const entry of this.#entries.values()) {
      if (entry.waiting.size > 0) continue;
      return this.#close(entry);
    }
  }

  #closeIdle(): void {
    for (const entry of this.#entries.values()) {
      if (this.#nowMs - entry.usedMs < this.#init.idleMs || entry.waiting.size > 0) return;
      this.#close(entry);
    }
  }

  #close(entry: Entry<T>): void {
    this.#entries.delete(entry.id);
    this.#endRound(entry);
    if (entry.blob !== undefined) this.#effects.push({ type: 'close', blob: entry.blob });
  }
}
