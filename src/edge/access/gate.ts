import type { BlobOrigin, BlobRef, OpaqueName } from '../../image/block.ts';
import { isOwnKey, ownWayKey } from '../../image/blob-key.ts';
import type { Digest } from '../../image/digest.ts';
import type { Clock, Timer } from '../../runtime/clock.ts';
import type { Hash } from '../../runtime/codec.ts';
import { DeadlineError, within } from '../../runtime/deadline.ts';
import type { Metrics } from '../../runtime/metrics.ts';
import { lifeSignOf } from '../../transfer/drive/ask-roots.ts';
import type { OpenEffect, OpenedBlob, ProbeResult } from '../../transfer/host/open-blob-types.ts';
import { TransferError } from '../../transfer/contracts/errors.ts';
import { PeerError } from '../../transfer/contracts/transport.ts';
import { OpenBlobs } from '../../transfer/host/open-blobs.ts';
import type { PeerHealth } from '../../transfer/host/peer-health.ts';
import { PLACES_PER_REPORT_MAX } from '../../tree/limits.ts';
import type { OpenReply, OpenRequest } from '../../tree/messages.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { toHex } from '../../util/bytes.ts';
import { defined, unreachable } from '../../util/assert.ts';
import { AccessError } from './access-error.ts';
import type { BlobAddress, BlobGate, GrantedBlob, GateRequest } from './contract.ts';
import type { BlobRoots } from './blob-roots.ts';
import { accessMetrics, type AccessMetrics } from './metrics.ts';
import type { KeptVerdicts } from './kept-verdicts.ts';
import { accessError, answerOf, probeFailure, refusalOfError } from './open-refusals.ts';
import type { UrlProbe } from './url-probe.ts';
import type { Way, Ways } from './ways.ts';

/** Blobs open at a time: a host of 100 images of 100 layers stays below it. */
const BLOBS_MAX = 16_384;

/** Trees that a host is in for its clients: three quarters of what an owner gives a host. */
const STRIPES_MAX = (3 * PLACES_PER_REPORT_MAX) / 4;

/**
 * How long after its last use a blob stays in its trees: as long as the trees keep a silent host.
 */
const IDLE_MS = 20 * 60_000;

/** Longest wait for a root's answer to OPEN; the reducer asks others long before. */
const ROOT_MS_MAX = 15_000;

/**
 * URLs of clients are lent to the owners of a blob this often: signatures last minutes. (tunable)
 */
const LEND_INTERVAL_MS = 60_000;

/** Another URL is lent sooner: clients show one when the signature before has ended. (tunable) */
const LEND_NEW_INTERVAL_MS = 2_000;

/** Lent URLs that did not work at a root, and that this host has not tried yet. */
const NO_WAY_MAX = 1_024;

/**
 * Of requests that have ended, URL and credentials of this many stay at hand: the origin may be
 * asked beside the answer.
 */
const SHOWN_MAX = 1_024;

/** Least pause before a root that is overloaded is asked again. */
const RETRY_MS_MIN = 100;

/** Longest wait for one byte from the origin. */
const PROBE_MS_MAX = 10_000;

interface Components {
  readonly roots: Pick<BlobRoots, 'order' | 'ask' | 'mayLendTo' | 'lend'>;
  readonly probe: Pick<UrlProbe, 'sizeAt' | 'manifestSizeAt' | 'opaqueAt'>;
  readonly ways: Ways;
  readonly trees: Trees;
  /** Health of the roots, which all calls of this host share. */
  readonly health: PeerHealth;
  readonly kept: Pick<KeptVerdicts, 'get' | 'put' | 'end'>;
  readonly clock: Clock;
  readonly hash: Pick<Hash, 'sha256'>;
  readonly metrics: Metrics;
}

/** What the gate does with an open blob; `TreeDriver` has it. */
interface Trees {
  /** Joins the trees of the blob, and waits a little for the places. */
  open(
    blobs: readonly { readonly blob: BlobRef; readonly origin: BlobOrigin }[],
    signal?: AbortSignal,
  ): Promise<void>;
  close(digests: readonly Digest[]): void;
  /** A blob that is read by this host's own way. Throws TransferError. */
  openOwnWay(located: { readonly blob: BlobRef; readonly origin: BlobOrigin }): void;
  closeOwnWay(key: Digest): void;
}

interface Joined {
  readonly isShared: boolean;
  readonly ready: Promise<void>;
  /** When the URL of a client was lent last, in milliseconds of the clock. */
  lentMs: number;
  lentUrl: string;
}

/** What a client showed for a blob. */
type Shown = BlobAddress & { readonly authorization: string | undefined };

interface Token {
  readonly request: GateRequest;
  readonly resolve: (granted: GrantedBlob) => void;
  readonly reject: (error: Error) => void;
}

/**
 * Opens blobs for the clients of this host: carries out what the reducer `OpenBlobs` wants. It asks
 * roots, shows a client's own right to the origin, and joins the trees of what is shared.
 *
 * Life: constructed -> used -> `stop()`: what waits is rejected.
 */
export class OpenBlobGate implements BlobGate {
  readonly #parts: Components;
  readonly #blobs: OpenBlobs<Token>;
  readonly #metrics: AccessMetrics;
  /**
   * URL and credentials of the requests that wait, by `shownKey()`: a reducer never sees a secret.
   */
  readonly #waiting = new Map<string, { shown: Shown; requests: number }>();
  /** The same of those that ended last. */
  readonly #shown = new BoundedMap<string, Shown>({ entriesMax: SHOWN_MAX, evict: 'use' });
  /** Storages of lent URLs that did not work at a root, by `shownKey()`, until this host tries. */
  readonly #noWay = new BoundedMap<string, string>({ entriesMax: NO_WAY_MAX });
  readonly #running = new Map<number, AbortController>();
  /** Blobs whose trees this host has joined for its clients, by key. */
  readonly #joined = new Map<Digest, Joined>();
  #wake: { readonly timer: Timer; readonly atMs: number } | undefined;
  #isRunning = false;
  #isStopped = false;

  constructor(
    components: Components,
    init: { readonly acceptMs: number; readonly staleMs: number },
  ) {
    this.#parts = components;
    this.#metrics = accessMetrics(components.metrics);
    this.#blobs = new OpenBlobs<Token>(
      {
        health: components.health,
        roots: (digest, origin) => components.roots.order(digest, origin),
        ownKey: (blob, origin) => ownWayKey(components.hash, blob, origin),
        kept: (digest, origin) => components.kept.get(digest, origin),
      },
      { ...init, entriesMax: BLOBS_MAX, stripesMax: STRIPES_MAX, idleMs: IDLE_MS },
    );
  }

  opened(request: Omit<GateRequest, 'signal'>): OpenedBlob | undefined {
    const { address, digest, authorization } = request;
    const right = this.#rightOf(address, authorization);
    return this.#blobs.opened(
      { digest, origin: originOf(address), right },
      this.#parts.clock.nowMs(),
    );
  }

  async open(request: GateRequest): Promise<GrantedBlob> {
    const { address, digest, authorization, shownBytes, patienceMs, signal } = request;
    signal.throwIfAborted();
    if (address.opaque === undefined && isOwnKey(digest)) {
      const what = `${address.registry} cannot have a blob of this name: it is no digest`;
      throw new AccessError(what, { code: 'not-found' });
    }
    const right = this.#rightOf(address, authorization);
    const origin = originOf(address);
    const { promise, resolve, reject } = Promise.withResolvers<GrantedBlob>();
    const token: Token = { request, resolve, reject };
    const onAbort = (): void => {
      this.#run((nowMs) => this.#blobs.cancel(token, nowMs));
      reject(signal.reason as Error);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    const key = shownKey(digest, origin, right);
    this.#show(key, { ...address, authorization });
    try {
      if (this.#isStopped) throw new AccessError('the agent stops', { code: 'unchecked' });
      this.#run((nowMs) =>
        this.#blobs.request({ token, digest, origin, right, shownBytes, patienceMs }, nowMs),
      );
      const granted = await promise;
      this.#metrics.checks.inc({ result: granted.isShared ? 'shared' : 'alone' });
      return granted;
    } catch (error) {
      if (error instanceof AccessError) this.#metrics.checks.inc({ result: error.code });
      throw error;
    } finally {
      signal.removeEventListener('abort', onAbort);
      this.#unshow(key);
    }
  }

  rootsChanged(): void {
    this.#run((nowMs) => this.#blobs.rootsChanged(nowMs));
  }

  stop(): void {
    this.#isStopped = true;
    this.#wake?.timer.cancel();
    for (const running of this.#running.values()) running.abort(new Error('the agent stops'));
  }

  #run(change: (nowMs: number) => void): void {
    change(this.#parts.clock.nowMs());
    if (this.#isRunning) return;
    this.#isRunning = true;
    try {
      for (let effects = this.#blobs.take(); effects.length > 0; effects = this.#blobs.take()) {
        for (const effect of effects) this.#carryOut(effect);
      }
    } finally {
      this.#isRunning = false;
    }
    this.#setWake();
  }

  #setWake(): void {
    const atMs = this.#blobs.nextWakeMs;
    if (this.#isStopped || atMs === undefined || atMs === this.#wake?.atMs) return;
    this.#wake?.timer.cancel();
    const delayMs = Math.max(0, atMs - this.#parts.clock.nowMs());
    const timer = this.#parts.clock.setTimer(delayMs, () => {
      this.#wake = undefined;
      this.#run((nowMs) => this.#blobs.tick(nowMs));
    });
    this.#wake = { timer, atMs };
  }

  #carryOut(effect: OpenEffect<Token>): void {
    switch (effect.type) {
      case 'ask-root':
        return void this.#askRoot(effect);
      case 'probe':
        return void this.#probe(effect);
      case 'cancel':
        return this.#running.get(effect.attempt)?.abort(new Error('another root answered'));
      case 'grant':
        return this.#grant(effect.token, effect.opened);
      case 'refuse':
        return effect.token.reject(accessError(effect.refusal, effect.token.request.address));
      case 'keep':
        return this.#keep(effect);
      case 'drop':
        return this.#leave(effect.blob);
      case 'close':
        return this.#leave(effect.blob);
      default:
        return unreachable(effect);
    }
  }

  #keep({ digest, origin, sizeBytes }: OpenEffect<Token> & { type: 'keep' }): void {
    if (sizeBytes === undefined) this.#parts.kept.end(digest, origin);
    else this.#parts.kept.put(digest, origin, sizeBytes);
  }

  async #askRoot(effect: OpenEffect<Token> & { type: 'ask-root' }): Promise<void> {
    const { attempt, root, digest, origin, right } = effect;
    const { roots, ways } = this.#parts;
    const key = shownKey(digest, origin, right);
    const url = this.#shownAs(key)?.url;
    const { storage } = origin;
    const isLent =
      url !== undefined &&
      storage !== undefined &&
      roots.mayLendTo(root) &&
      ways.isLendable(storage);
    const request: OpenRequest = { digest, origin, ...(isLent && { url }) };
    await this.#attempt(attempt, ROOT_MS_MAX, async (signal) => {
      try {
        const reply = await this.#askPatiently(() => roots.ask(root, request, signal), signal);
        // A URL that works from here all the same is bound to this host's address.
        if (isLent && reply.outcome === 'no-way') {
          if (origin.opaque === undefined) this.#noWay.set(key, storage);
          else ways.markUnlendable(storage);
        }
        return (nowMs) => this.#blobs.answered(attempt, answerOf(reply), nowMs);
      } catch (error) {
        const wasCancelled = signal.aborted && !(signal.reason instanceof DeadlineError);
        const sign = wasCancelled ? undefined : lifeSignOf(error);
        return (nowMs) => this.#blobs.rootFailed(attempt, sign, nowMs);
      }
    });
  }

  /** A root that is overloaded is no lost one: it is asked again when it says. */
  async #askPatiently(ask: () => Promise<OpenReply>, signal: AbortSignal): Promise<OpenReply> {
    for (;;) {
      try {
        return await ask();
      } catch (error) {
        const detail = error instanceof PeerError ? error.detail : undefined;
        if (detail?.code !== 'overloaded') throw error;
        await this.#parts.clock.sleep(Math.max(RETRY_MS_MIN, detail.retryAfterMs), signal);
      }
    }
  }

  async #probe(effect: OpenEffect<Token> & { type: 'probe' }): Promise<void> {
    const { attempt, digest, origin, right } = effect;
    const key = shownKey(digest, origin, right);
    const shown = this.#shownAs(key);
    await this.#attempt(attempt, PROBE_MS_MAX, async (signal) => {
      const result = await this.#probeNow(shown, signal);
      const storage = this.#noWay.get(key);
      if (storage !== undefined && result.outcome === 'accepted') {
        this.#parts.ways.markUnlendable(storage);
      }
      this.#noWay.delete(key);
      return (nowMs) => this.#blobs.probed(attempt, result, nowMs);
    });
  }

  async #probeNow(shown: Shown | undefined, signal: AbortSignal): Promise<ProbeResult> {
    // Others have crowded it out.
    if (shown === undefined) return { outcome: 'refused', refusal: { code: 'undecided' } };
    if (shown.opaque !== undefined) return this.#probeOpaque(shown, shown.opaque, signal);
    const { probe } = this.#parts;
    try {
      const isManifest = shown.url.includes('/manifests/');
      const ask = isManifest ? probe.manifestSizeAt(shown, signal) : probe.sizeAt(shown, signal);
      return { outcome: 'accepted', sizeBytes: await ask };
    } catch (error) {
      return probeFailure(error);
    }
  }

  async #probeOpaque(
    { url }: Shown,
    { etag, sizeBytes }: OpaqueName,
    signal: AbortSignal,
  ): Promise<ProbeResult> {
    try {
      const found = await this.#parts.probe.opaqueAt(url, signal);
      const isSame = found?.etag === etag && found.sizeBytes === sizeBytes;
      if (isSame) return { outcome: 'accepted', sizeBytes };
      return { outcome: 'refused', refusal: { code: 'other-content', sizeBytes: 0 } };
    } catch (error) {
      return probeFailure(error);
    }
  }

  /** Runs one question to somebody outside, and gives its outcome to the reducer. */
  async #attempt(
    attempt: number,
    timeoutMs: number,
    ask: (signal: AbortSignal) => Promise<(nowMs: number) => void>,
  ): Promise<void> {
    const cancel = new AbortController();
    this.#running.set(attempt, cancel);
    try {
      const outcome = await within(this.#parts.clock, timeoutMs, ask, { signal: cancel.signal });
      if (!this.#isStopped) this.#run(outcome);
    } finally {
      this.#running.delete(attempt);
    }
  }

  #grant(token: Token, opened: OpenedBlob): void {
    const { address, authorization } = token.request;
    const { blob } = opened;
    const way = this.#parts.ways.add(blob.digest, { url: address.url, authorization });
    const joined = this.#joinOrFail(token, opened);
    if (joined === undefined) return;
    this.#watch(way, token.request);
    this.#lendAgain(token.request, blob, joined);
    joined.ready.then(
      () => token.resolve({ ...opened, way }),
      (error: unknown) => token.reject(error instanceof Error ? error : new Error(String(error))),
    );
  }

  /**
   * When the way turns out to be closed while the request runs, the next one with the same right is
   * told so at once.
   */
  #watch(way: Way, { address, digest, authorization, signal }: GateRequest): void {
    const right = this.#rightOf(address, authorization);
    const shown = { digest, origin: originOf(address), right };
    const unwatch = way.watch((error) => {
      this.#run((nowMs) => this.#blobs.rightClosed(shown, refusalOfError(error), nowMs));
    });
    signal.addEventListener('abort', unwatch, { once: true });
  }

  /** Undefined when a bound is reached: the request has its error. */
  #joinOrFail(token: Token, opened: OpenedBlob): Joined | undefined {
    try {
      return this.#join(token.request, opened);
    } catch (error) {
      if (!(error instanceof TransferError)) throw error;
      token.reject(error);
      return undefined;
    }
  }

  /**
   * Joins the trees of a blob that this host has not joined yet; of what is read alone it says so.
   */
  #join({ digest, address }: GateRequest, { blob, isShared }: OpenedBlob): Joined {
    const known = this.#joined.get(blob.digest);
    if (known?.isShared === isShared) return known;
    this.#leave(blob);
    const { trees } = this.#parts;
    const where = originOf(address);
    // Of an opaque blob nobody knows the digest of the content: what names it is a key.
    const isNamed = blob.digest === digest || where.opaque !== undefined;
    const origin = isNamed ? where : { ...where, content: digest };
    const join = async (): Promise<void> => {
      if (where.storage !== undefined) await this.#lend(address, digest, blob);
      await trees.open([{ blob, origin }]);
    };
    if (!isShared) trees.openOwnWay({ blob, origin });
    const ready = isShared ? join() : Promise.resolve();
    const joined = { isShared, ready, lentMs: this.#parts.clock.nowMs(), lentUrl: address.url };
    this.#joined.set(blob.digest, joined);
    return joined;
  }

  /** The owners' signatures end; those that clients show later are lent too, now and then. */
  #lendAgain({ digest, address }: GateRequest, blob: BlobRef, joined: Joined): void {
    const nowMs = this.#parts.clock.nowMs();
    const isNew = address.url !== joined.lentUrl;
    const pauseMs = isNew ? LEND_NEW_INTERVAL_MS : LEND_INTERVAL_MS;
    const isDue = joined.isShared && nowMs - joined.lentMs >= pauseMs;
    if (!isDue || address.storage === undefined) return;
    joined.lentMs = nowMs;
    joined.lentUrl = address.url;
    void this.#lend(address, digest, blob);
  }

  async #lend(address: BlobAddress, digest: Digest, blob: BlobRef): Promise<void> {
    const { roots, ways } = this.#parts;
    if (address.storage === undefined || !ways.isLendable(address.storage)) return;
    await roots.lend(blob, { digest, origin: originOf(address), url: address.url });
  }

  #leave(blob: BlobRef): void {
    const joined = this.#joined.get(blob.digest);
    if (joined === undefined) return;
    this.#joined.delete(blob.digest);
    const { trees } = this.#parts;
    if (joined.isShared) trees.close([blob.digest]);
    else trees.closeOwnWay(blob.digest);
  }

  #show(key: string, shown: Shown): void {
    const waiting = this.#waiting.get(key) ?? { shown, requests: 0 };
    waiting.shown = shown;
    waiting.requests++;
    this.#waiting.set(key, waiting);
  }

  #unshow(key: string): void {
    const waiting = defined(this.#waiting.get(key), 'what a waiting request shows is at hand');
    if (--waiting.requests > 0) return;
    this.#waiting.delete(key);
    this.#shown.set(key, waiting.shown);
  }

  #shownAs(key: string): Shown | undefined {
    return this.#waiting.get(key)?.shown ?? this.#shown.get(key);
  }

  /** Names the right of a request without its secret: at a storage the URL is the right. */
  #rightOf({ repository, url }: BlobAddress, authorization: string | undefined): string {
    const secret = repository === '' ? `${url}\n${authorization ?? ''}` : (authorization ?? '');
    return secret === '' ? '' : toHex(this.#parts.hash.sha256(Buffer.from(secret)));
  }
}

/**
 * Rights are told apart by blob and origin too: a request that shows nothing has the same right
 * everywhere.
 */
function shownKey(digest: Digest, origin: BlobOrigin, right: string): string {
  return `${digest} ${origin.registry}/${origin.repository} ${right}`;
}

function originOf({ registry, repository, storage, opaque }: BlobAddress): BlobOrigin {
  return {
    registry,
    repository,
    ...(storage !== undefined && { storage }),
    ...(opaque !== undefined && { opaque }),
  };
}
