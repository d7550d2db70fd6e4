import type { BlobRef } from '../../image/block.ts';
import { unreachable } from '../../util/assert.ts';
import { TimerHeap } from '../../util/timer-heap.ts';
import {
  isNo,
  isOtherUrl,
  isPassing,
  newEntry,
  type Attempt,
  type Entry,
  type OpenTimer,
  type Outcome,
  type Waiter,
} from './open-blob-entry.ts';
import { OpenBlobTable } from './open-blob-table.ts';
import { PATIENCE_MS_MIN, type LifeSign } from './peer-health.ts';
import { REFUSED_MS, type Right } from './open-rights.ts';
import {
  isWholeRefusal,
  openBlobId,
  PUBLIC_MS_MAX,
  type OpenAnswer,
  type OpenBlobsComponents,
  type OpenBlobsInit,
  type OpenEffect,
  type OpenRefusal,
  type OpenRequest,
  type OpenedBlob,
  type ProbeResult,
  type RightKey,
} from './open-blob-types.ts';

/** The next root is asked too after this long without an answer, in milliseconds. (tunable) */
const NEXT_ROOT_MS = PATIENCE_MS_MIN;

/**
 * Without any root's answer for this long, a host reads by its client's own way: the first when no
 * root that is asked answered last time either. Slow is not dead: hosts whose roots are busy must
 * not turn on the registry. (tunable)
 */
const OWN_WAY_MS = { lost: 700, slow: 5_000 };

/** What was public in the last day opens when nobody has answered for this long. (tunable) */
const KEPT_WAY_MS = 2_000;

/** Requests that wait for their outcome at a time: as many as a host's clients have connections. */
const WAITING_MAX = 4_096;

/** Longest wait of a request, all roots and the origin included; below the time of a read. */
const REQUEST_MS_MAX = 15_000;

/** A root's answer is believed for this long; the next request has it asked again. (tunable) */
const ANSWER_MS = 300_000;

/** Pause before roots and origin are asked again for a patient request. (tunable) */
const RETRY_MS = 500;

/** Pause between questions to roots about a blob that none reaches, or none tells of. (tunable) */
const ALONE_MS = 60_000;
const UNANSWERED_MS = 5_000;

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
  readonly #parts: OpenBlobsComponents;
  readonly #entries: OpenBlobTable<T>;
  readonly #waiting = new Map<T, { readonly entry: Entry<T>; readonly waiter: Waiter<T> }>();
  readonly #attempts = new Map<number, Attempt<T>>();
  readonly #timers = new TimerHeap<OpenTimer<T>>();
  #effects: OpenEffect<T>[] = [];
  #attemptCount = 0;
  #nowMs = 0;

  constructor(components: OpenBlobsComponents, init: OpenBlobsInit) {
    this.#parts = components;
    this.#init = init;
    this.#entries = new OpenBlobTable(init, (entry) => this.#closed(entry));
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
    const isPublic = nowMs < entry.publicUntilMs;
    if (!isPublic && !entry.rights.isAccepted(request.right, nowMs)) return undefined;
    this.#entries.use(entry, nowMs);
    return { blob: entry.blob, isShared: entry.phase === 'shared' };
  }

  /** A client asks for a blob; ends in `grant` or `refuse`, unless `cancel()` comes first. */
  request(request: OpenRequest<T>, nowMs: number): void {
    this.#nowMs = nowMs;
    if (this.#waiting.size >= WAITING_MAX) return this.#refuse(request, { code: 'undecided' });
    const entry = this.#entry(request);
    this.#entries.use(entry, nowMs);
    const { right, shownBytes } = request;
    if (shownBytes !== undefined) this.#accept(entry, entry.rights.get(right, nowMs), shownBytes);
    const waiter: Waiter<T> = { ...request, patientUntilMs: nowMs + (request.patienceMs ?? 0) };
    entry.waiting.add(waiter);
    this.#waiting.set(request.token, { entry, waiter });
    const late = { type: 'deadline', entry, waiter } as const;
    waiter.deadline = this.#timers.set(nowMs + REQUEST_MS_MAX, late);
    this.#askAgain(entry, request.right);
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
    if (found?.kind !== 'root') return;
    const { entry } = found;
    this.#parts.health.heard(found.root);
    this.#entries.rootsAreBack(nowMs);
    for (const [earlier, root] of answer.outcome === 'open' ? entry.asking : []) {
      if (earlier < attempt) this.#parts.health.late(root, nowMs);
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
        else this.#endPublic(entry, isNo(answer.refusal));
        break;
      default:
        return unreachable(answer);
    }
    this.#settle(entry);
  }

  /** A root did not answer `ask-root`, or refused to talk to this host. */
  rootFailed(attempt: number, sign: LifeSign | undefined, nowMs: number): void {
    this.#nowMs = nowMs;
    const found = this.#takeAttempt(attempt, 'root');
    if (found?.kind !== 'root') return;
    if (sign !== undefined) this.#parts.health[sign](found.root, nowMs);
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
    if (right === undefined) return this.#settle(entry);
    switch (result.outcome) {
      case 'accepted':
        // Roots that found no way by another URL may find one by this.
        if (isOtherUrl(entry, found.right)) this.#ask(entry, found.right);
        this.#accept(entry, right, result.sizeBytes);
        this.#originAnswered(entry);
        break;
      case 'refused':
        entry.rights.refuse(right, result.refusal, nowMs);
        this.#originAnswered(entry);
        if (found.right === '' && isNo(result.refusal)) this.#keep(entry);
        break;
      case 'unreachable':
        entry.rights.keepStale(right, nowMs);
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
    const rights = this.#entries.get(openBlobId(request))?.rights;
    const right = rights?.peek(request.right);
    if (right !== undefined) rights?.refuse(right, refusal, nowMs);
    if (request.right === '' && isNo(refusal)) this.#keep(request);
  }

  /** The roots or their connections changed: blobs that are read alone may be shared now. */
  rootsChanged(nowMs: number): void {
    this.#nowMs = nowMs;
    for (const entry of this.#entries.values()) {
      const isAlone = entry.phase === 'alone' || entry.isKept;
      if (isAlone) entry.untilMs = Math.min(entry.untilMs, nowMs);
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
    this.#entries.closeIdle(nowMs);
  }

  #onTimer(timer: OpenTimer<T>): void {
    const { entry } = timer;
    switch (timer.type) {
      case 'next-root':
        if (entry.asking.size > 0) this.#nextRoot(entry);
        break;
      case 'own-way':
        this.#onOwnWay(entry, timer.after);
        break;
      case 'kept-way':
        if (entry.phase !== 'shared' && entry.waiting.size > 0) this.#openKept(entry);
        break;
      case 'retry':
        entry.retries = false;
        this.#askAgain(entry);
        if (entry.waiting.size > 0) this.#retryLater(entry);
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

  #onOwnWay(entry: Entry<T>, after: 'lost' | 'slow'): void {
    if (entry.phase !== 'shared' && after === 'lost') {
      const keptMs = this.#nowMs + KEPT_WAY_MS - OWN_WAY_MS.lost;
      this.#timers.set(keptMs, { type: 'kept-way', entry });
    }
    const { health } = this.#parts;
    const isDue =
      after === 'slow' || [...entry.asking.values()].every((root) => health.isSilent(root));
    if (entry.phase === 'asking') entry.probesItself ||= isDue;
    // Open by a kept verdict: the origin is asked beside, and its word ends that.
    if (entry.isKept && isDue) this.#probe(entry, entry.right);
  }

  #entry(request: OpenRequest<T>): Entry<T> {
    const id = openBlobId(request);
    const known = this.#entries.get(id);
    if (known !== undefined) return known;
    const entry = newEntry(request, this.#init, this.#nowMs);
    this.#entries.add(entry);
    this.#ask(entry, request.right);
    return entry;
  }

  #askAgain(entry: Entry<T>, right = entry.right): void {
    if (entry.phase !== 'asking' && this.#nowMs >= entry.untilMs) this.#ask(entry, right);
  }

  /** Starts a round of questions to roots. Meanwhile the known answer stays in use. */
  #ask(entry: Entry<T>, right: RightKey): void {
    if (entry.phase === 'asking' || entry.blob === undefined) entry.phase = 'asking';
    // A known blob stays open while it is asked about again.
    else entry.untilMs = this.#nowMs + NEXT_ROOT_MS;
    if (entry.asking.size > 0) return;
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
    const roots = this.#parts.roots(entry.digest, entry.origin);
    const root = this.#parts.health
      .order(roots, this.#nowMs)
      .find((peer) => !entry.asked.has(peer));
    if (root === undefined) {
      // All were asked. Late answers still count.
      if (entry.asking.size > 0) return;
      if (entry.phase === 'asking') {
        this.#entries.unanswered(entry);
        return this.#beAlone(entry, UNANSWERED_MS);
      }
      // No root answers: what is known stays in use, and they are asked again in a while.
      entry.untilMs = this.#nowMs + REFUSED_MS;
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
    this.#learn(entry, { digest, sizeBytes });
    entry.publicUntilMs = isPublic ? this.#nowMs + PUBLIC_MS_MAX : 0;
    entry.isKept = false;
    entry.phase = 'shared';
    entry.untilMs = this.#nowMs + ANSWER_MS;
    this.#entries.changed(entry);
    this.#endRound(entry);
    if (digest === entry.digest) this.#keep(entry, isPublic ? sizeBytes : undefined);
  }

  #learn(entry: Entry<T>, blob: BlobRef): void {
    const before = entry.blob;
    entry.blob = blob;
    if (before === undefined) return;
    if (before.sizeBytes === blob.sizeBytes && before.digest === blob.digest) return;
    this.#effects.push({ type: 'drop', blob: before });
    // Rights that were shown for other content are none.
    if (before.sizeBytes !== blob.sizeBytes) entry.rights.clear();
  }

  /** Tells the driver for how large a blob the source is public now; undefined: not public. */
  #keep({ digest, origin }: Pick<OpenRequest<T>, 'digest' | 'origin'>, sizeBytes?: number): void {
    if (origin.storage !== undefined || origin.repository === '') return;
    this.#effects.push({ type: 'keep', digest, origin, sizeBytes });
  }

  /** An outage: what was public in the last day is open to anybody, until somebody answers. */
  #openKept(entry: Entry<T>): boolean {
    const kept = this.#parts.kept(entry.digest, entry.origin);
    if (kept === undefined) return false;
    const { digest } = entry;
    this.#learn(entry, { digest, sizeBytes: kept.sizeBytes });
    entry.phase = 'shared';
    entry.isKept = true;
    entry.publicUntilMs = this.#nowMs + kept.leftMs;
    entry.untilMs = this.#nowMs + ALONE_MS;
    this.#entries.changed(entry);
    return true;
  }

  /** The origin answers somebody again: a kept verdict counts no more, and roots are asked. */
  #originAnswered(entry: Entry<T>): void {
    if (!entry.isKept) return;
    entry.isKept = false;
    entry.publicUntilMs = 0;
    entry.untilMs = this.#nowMs;
  }

  /** The registry refuses the roots: each request now shows its own right to what was public. */
  #endPublic(entry: Entry<T>, isDefinite: boolean): void {
    if (isDefinite) this.#keep(entry);
    if (entry.phase !== 'shared') return this.#beAlone(entry);
    entry.publicUntilMs = 0;
    entry.isKept = false;
    entry.untilMs = this.#nowMs + ANSWER_MS;
    this.#endRound(entry);
  }

  /** No root reaches the blob: its size is what the origin tells this host. */
  #beAlone(entry: Entry<T>, forMs = ALONE_MS): void {
    if (entry.phase === 'shared' && !entry.isKept) return;
    entry.phase = 'alone';
    entry.isKept = false;
    entry.publicUntilMs = 0;
    entry.untilMs = this.#nowMs + forMs;
    this.#entries.changed(entry);
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
      entry.blob = { digest: this.#parts.ownKey({ digest, sizeBytes }, origin), sizeBytes };
    } else if (entry.blob.sizeBytes !== sizeBytes) {
      return entry.rights.refuse(right, { code: 'other-content', sizeBytes }, this.#nowMs);
    }
    entry.rights.accept(right, this.#nowMs);
  }

  /** Answers every request that can be answered, and probes the rights that are wanted. */
  #settle(entry: Entry<T>): void {
    for (const waiter of entry.waiting) {
      const outcome = this.#outcomeOf(entry, waiter);
      if (outcome === undefined) continue;
      this.#leave(waiter.token);
      if ('refusal' in outcome) this.#refuse(waiter, outcome.refusal);
      else this.#effects.push({ type: 'grant', token: waiter.token, opened: outcome.opened });
    }
  }

  #outcomeOf(entry: Entry<T>, waiter: Waiter<T>): Outcome | undefined {
    const outcome = this.#verdictOn(entry, waiter);
    if (outcome === undefined || 'opened' in outcome || !isPassing(outcome.refusal)) return outcome;
    const isUnchecked = outcome.refusal.code === 'unchecked';
    if (isUnchecked && this.#openKept(entry)) return this.#verdictOn(entry, waiter);
    const { refusal } = outcome;
    const backMs = refusal.code === 'rate-limited' ? this.#nowMs + refusal.retryAfterMs : 0;
    if (Math.max(this.#nowMs, backMs) >= waiter.patientUntilMs) return outcome;
    this.#retryLater(entry);
    return undefined;
  }

  /** Roots and origin may be back in a moment. */
  #retryLater(entry: Entry<T>): void {
    if (!entry.retries) this.#timers.set(this.#nowMs + RETRY_MS, { type: 'retry', entry });
    entry.retries = true;
  }

  #verdictOn(entry: Entry<T>, waiter: Waiter<T>): Outcome | undefined {
    const isShared = entry.phase === 'shared';
    const opened = entry.blob !== undefined && { blob: entry.blob, isShared };
    const isPublic = isShared && this.#nowMs < entry.publicUntilMs;
    if (opened !== false && isPublic) return { opened };
    if (entry.phase === 'asking' && !entry.probesItself) return undefined;
    // The registry has refused the root, which showed at least as much as this request does.
    const isNothingShown = waiter.right === '' && entry.origin.repository !== '';
    if (entry.phase === 'alone' && isNothingShown && entry.refusal !== undefined) {
      return { refusal: entry.refusal };
    }
    if (entry.rights.mustWait(waiter.right)) return undefined;
    const right = entry.rights.get(waiter.right, this.#nowMs);
    if (right.state === 'unknown') this.#probe(entry, waiter.right);
    const isAccepted = right.state === 'accepted' || entry.rights.isStale(right, this.#nowMs);
    if (isAccepted && opened !== false) return { opened };
    if (right.state !== 'refused') return undefined;
    const refusal = right.refusal ?? this.#unchecked(entry);
    // An origin that says nothing is not the answer while a root may still give one.
    return isPassing(refusal) && entry.asking.size > 0 ? undefined : { refusal };
  }

  /** Asks the origin about a right on which it has said nothing. */
  #probe(entry: Entry<T>, key: RightKey): void {
    const right = entry.rights.get(key, this.#nowMs);
    if (right.state !== 'unknown' || !entry.rights.mayProbe) return;
    const staleMs = entry.rights.asks(right, this.#nowMs);
    if (staleMs !== undefined) this.#timers.set(staleMs, { type: 'retry', entry });
    const attempt = ++this.#attemptCount;
    this.#attempts.set(attempt, { kind: 'probe', entry, right: key });
    const { digest, origin } = entry;
    this.#effects.push({ type: 'probe', attempt, digest, origin, right: key });
  }

  #unchecked(entry: Entry<T>): OpenRefusal {
    return { code: 'unchecked', silent: [...entry.asking.values(), entry.origin.registry] };
  }

  #refuse(waiter: Pick<OpenRequest<T>, 'token'>, refusal: OpenRefusal): void {
    this.#effects.push({ type: 'refuse', token: waiter.token, refusal });
  }

  #leave(token: T): void {
    const waiting = this.#waiting.get(token);
    if (waiting === undefined) return;
    this.#waiting.delete(token);
    waiting.entry.waiting.delete(waiting.waiter);
    if (waiting.waiter.deadline !== undefined) waiting.waiter.deadline.action = undefined;
  }

  #takeAttempt(attempt: number, kind: Attempt<T>['kind']): Attempt<T> | undefined {
    const found = this.#attempts.get(attempt);
    if (found?.kind !== kind) return undefined;
    this.#attempts.delete(attempt);
    found.entry.asking.delete(attempt);
    return found;
  }

  #closed(entry: Entry<T>): void {
    this.#endRound(entry);
    if (entry.blob !== undefined) this.#effects.push({ type: 'close', blob: entry.blob });
  }
}
