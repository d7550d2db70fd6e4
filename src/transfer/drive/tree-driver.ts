import type { BlockStore } from '../../blockstore/store.ts';
import { parseManifest, type ResolvedImage } from '../../image/manifest.ts';
import { hasOwnKey, isOwnKey } from '../../image/blob-key.ts';
import type { Digest } from '../../image/digest.ts';
import type { SignedClaim } from '../../image/signed-claim.ts';
import type { Clock } from '../../runtime/clock.ts';
import { DeadlineError, within } from '../../runtime/deadline.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { BlobNotice, HostAddress, ManifestReply, ResolveReply } from '../../tree/messages.ts';
import type { MembershipEffect } from '../../tree/member/membership.ts';
import type { CallFailure } from '../../tree/member/root-link.ts';
import { Counts } from '../../util/counts.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { unreachable } from '../../util/assert.ts';
import { errorText } from '../../util/errors.ts';
import { SingleFlight } from '../../util/single-flight.ts';
import type { HostCore, HostCoreInit, Upstreams } from '../host/host-core.ts';
import type { LocatedBlob } from '../contracts/blob-reader.ts';
import { TransferError } from '../contracts/errors.ts';
import type { Origin } from '../contracts/origin.ts';
import type { Handlers, TreeCalls } from '../contracts/calls.ts';
import { PeerError, type Transport } from '../contracts/transport.ts';
import { AskRoots, noteFailure } from './ask-roots.ts';
import { BlobOrigins } from './blob-origins.ts';
import { checkTold } from './told-image.ts';

/**
 * Longest wait for a root's answer to JOIN, REPORT or LEAVE, in milliseconds; then the next root is
 * asked. A root that was silent gets less time.
 */
const TREE_CALL_MS_MAX = 3_000;
const SILENT_CALL_MS_MAX = 1_000;

/** Longest wait for a root that asks the registry for a manifest or a size, in milliseconds. */
const RESOLVE_MS_MAX = 20_000;

/**
 * Longest wait of `open()` for places, in milliseconds; reads work without places, from the roots.
 */
const PLACES_MS_MAX = 2_000;

/** A root may refuse one blob; five JOINs in a row are more than that. */
const REFUSALS_MAX = 5;

/** Roots' words on distrusted blobs. */
interface Notices {
  readonly noticeOf: (digest: Digest) => SignedClaim | undefined;
  readonly takeNotice: (digest: Digest, notice: SignedClaim) => void;
}

interface TreeComponents {
  readonly transport: Transport;
  readonly origin: Origin;
  readonly store: Pick<BlockStore, 'blobs'>;
  readonly hash: Hash;
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * Carries the messages of the trees for this host (joins, reports, resolves), and answers them on a
 * root. Blobs are counted by their openers; the last `close()` leaves the trees.
 */
export class TreeDriver<P, T> {
  /** Asks roots and relays, for all parts of this host. */
  readonly askRoots: AskRoots;
  /** Where registries have the blobs. */
  readonly origins: BlobOrigins;
  readonly #parts: TreeComponents;
  readonly #core: HostCore<P, T>;
  readonly #role: HostCoreInit['role'];
  #upstreams: Upstreams;
  readonly #run: (change: (nowMs: number) => void) => void;
  readonly #notices: Notices;
  readonly #openers = new Counts<Digest>();
  readonly #resolving = new SingleFlight<string, ResolveReply>();
  /** Openers that wait for their places. */
  readonly #unplaced = new Set<() => boolean>();
  /** The last JOINs that were refused, since one was taken. */
  readonly #refusals: string[] = [];
  readonly #stop = new AbortController();
  readonly #calls = new Set<Promise<void>>();

  constructor(
    components: TreeComponents,
    init: {
      core: HostCore<P, T>;
      role: HostCoreInit['role'];
      upstreams: Upstreams;
      run: (change: (nowMs: number) => void) => void;
      notices: Notices;
    },
  ) {
    this.#parts = components;
    this.askRoots = new AskRoots(components);
    this.#core = init.core;
    this.#role = init.role;
    const isRoot = init.role === 'root';
    this.origins = new BlobOrigins(components, { isRoot, stop: this.#stop.signal });
    this.#upstreams = init.upstreams;
    this.#run = init.run;
    this.#notices = init.notices;
  }

  setUpstreams(upstreams: Upstreams): void {
    this.#upstreams = upstreams;
  }

  /** Answers of a root, and of a relay, which asks the roots for the registry's word. */
  get handlers(): Handlers<TreeCalls> {
    return {
      join: (peer, request) => {
        const { blocks } = this.#core;
        return this.#answer((nowMs) => {
          const reply = this.#core.join(peer, request, nowMs);
          for (const { blob, origin } of request.blobs) {
            const isTaken = blocks.blob(blob.digest)?.sizeBytes === blob.sizeBytes;
            if (isTaken) this.origins.told(blob, origin);
          }
          const digests = request.blobs.map(({ blob }) => blob.digest);
          return this.#withNotices(reply, digests);
        });
      },
      leave: (peer, request) => this.#answer((nowMs) => this.#core.leave(peer, request, nowMs)),
      report: (peer, request) =>
        this.#answer((nowMs) => {
          const digests = new Set(request.held.map(({ digest }) => digest));
          return this.#withNotices(this.#core.report(peer, request, nowMs), digests);
        }),
      resolve: (_peer, { reference }) => this.manifestOf(reference),
    };
  }

  /** The reply with this host's word on those of the blobs that it distrusts. */
  #withNotices<R extends object>(reply: R, digests: Iterable<Digest>): R {
    const notices: BlobNotice[] = [];
    for (const digest of digests) {
      const notice = this.#notices.noticeOf(digest);
      if (notice !== undefined) notices.push({ digest, notice });
    }
    return notices.length === 0 ? reply : { ...reply, notices };
  }

  #takeNotices({ notices = [] }: { readonly notices?: readonly BlobNotice[] }): void {
    for (const { digest, notice } of notices) this.#notices.takeNotice(digest, notice);
  }

  /** What JOINs are refused with, when none of the last few was taken. */
  get joinRefusal(): string | undefined {
    return this.#refusals.length < REFUSALS_MAX ? undefined : this.#refusals.at(-1);
  }

  /** The roots that exist now. */
  get roots(): readonly HostAddress[] {
    return this.#upstreams.roots;
  }

  /**
   * The registry that has a blob, for the count of its reads; all unconfigured registries count as
   * one.
   */
  sourceKey(digest: Digest): string {
    const origin = this.origins.of(digest);
    return origin !== undefined && this.#parts.origin.believes(origin) ? origin.registry : '';
  }

  /** The content read of the blob from its registry did not match its digest. */
  distrustOrigin(digest: Digest): void {
    const where = this.origins.of(digest);
    if (where !== undefined) this.#parts.origin.distrust?.(where);
  }

  /**
   * The digest of the whole content of the blob with this key; undefined when this host knows none,
   * as of an opaque blob.
   */
  contentOf(key: Digest): Digest | undefined {
    return isOwnKey(key) ? this.origins.of(key)?.content : key;
  }

  /**
   * A blob to which only the ways of this host's clients lead: no tree has it. Each call ends with
   * one `closeOwnWay()`. Throws TransferError.
   */
  openOwnWay({ blob, origin }: LocatedBlob): void {
    this.#core.blocks.hold(blob, true);
    this.origins.set(blob.digest, origin);
  }

  closeOwnWay(key: Digest): void {
    this.#run(() => this.#core.blocks.letGo(key));
  }

  /** Nothing uses the blob any more, unless it was opened again. */
  forget(digest: Digest): void {
    if (this.#core.blocks.blob(digest) === undefined) this.origins.delete(digest);
  }

  /**
   * Joins the trees of the blobs, and waits a little for the places: a caller with time to wait
   * says how long. Rejects with TransferError.
   */
  async open(
    blobs: readonly LocatedBlob[],
    signal?: AbortSignal,
    placesMsMax = PLACES_MS_MAX,
  ): Promise<void> {
    for (const { blob, origin } of blobs) {
      if (hasOwnKey(origin) || !isOwnKey(blob.digest)) continue;
      const what = `${blob.digest} is no digest of a blob: it names blocks of one source`;
      throw new TransferError(what, { code: 'unknown-blob' });
    }
    this.#run((nowMs) => {
      this.#core.want(blobs, nowMs);
      for (const { blob, origin } of blobs) {
        this.origins.found(blob.digest, origin);
        this.#openers.add(blob.digest);
      }
    });
    await this.#places(blobs, { signal, placesMsMax });
  }

  /** Undoes one `open()` of each blob. */
  close(digests: readonly Digest[]): void {
    const unwanted = digests.filter((digest) => this.#openers.remove(digest) === 0);
    this.#run((nowMs) => this.#core.unwant(unwanted, nowMs));
  }

  /** The image that a reference stands for: `manifestOf()` gives its manifest. */
  async resolve(reference: string): Promise<ResolvedImage> {
    const { manifest, manifestDigest: digest, origin } = await this.manifestOf(reference);
    return { reference, digest, manifest: parseManifest(manifest), origin };
  }

  /**
   * The manifest of an image reference, checked against its digest. A host asks a root; a root asks
   * the registry itself, and so does a host when no root answers. Requests for the same reference
   * at the same time share one call.
   */
  manifestOf(reference: string): Promise<ResolveReply> {
    const { origin } = this.#parts;
    return this.#resolving.run(reference, () =>
      this.#fromRoots(
        'resolve',
        (root, signal) => this.#askImage(root, reference, signal),
        () => this.#within(RESOLVE_MS_MAX, (signal) => origin.resolve(reference, signal)),
      ),
    );
  }

  async #askImage(root: HostAddress, reference: string, signal: AbortSignal) {
    const { transport, origin: registries, hash } = this.#parts;
    const named = registries.named(reference);
    const told = await transport.call(root, 'resolve', { reference }, signal);
    const manifest = (digest: Digest): Promise<ManifestReply> =>
      transport.call(root, 'manifest', { origin: named.origin, reference: digest }, signal);
    return checkTold({ hash, manifest }, named, told);
  }

  carryOut(effect: MembershipEffect): void {
    const { transport } = this.#parts;
    const { owner, ticket } = effect;
    switch (effect.kind) {
      case 'join':
        return this.#call(
          owner,
          (signal) => transport.call(owner, 'join', effect.request, signal),
          (reply, nowMs) => {
            this.#refusals.length = 0;
            this.#takeNotices(reply);
            this.#core.joinReply(ticket, reply, nowMs);
          },
          (nowMs, failure, error) => {
            if (failure === 'refused') this.#refusals.push(errorText(error));
            if (this.#refusals.length > REFUSALS_MAX) this.#refusals.shift();
            this.#core.joinFailed(ticket, nowMs, failure);
          },
        );
      case 'report':
        return this.#call(
          owner,
          (signal) => transport.call(owner, 'report', effect.request, signal),
          (reply, nowMs) => {
            this.#takeNotices(reply);
            this.#core.reportReply(ticket, reply, nowMs);
          },
          (nowMs, failure) => this.#core.reportFailed(ticket, nowMs, failure),
        );
      case 'leave':
        return this.#call(
          owner,
          (signal) => transport.call(owner, 'leave', effect.request, signal),
          (_reply, nowMs) => this.#core.leaveDone(ticket, nowMs),
          (nowMs) => this.#core.leaveDone(ticket, nowMs),
        );
      default:
        return unreachable(effect);
    }
  }

  /** The peer shows no sign of life. */
  silent(peer: PeerId): void {
    this.askRoots.silent(peer);
    this.#run((nowMs) => this.#core.peerSilent(peer, nowMs));
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#calls);
  }

  #call<R>(
    { peer }: HostAddress,
    ask: (signal: AbortSignal) => Promise<R>,
    onReply: (reply: R, nowMs: number) => void,
    onFailure: (nowMs: number, failure: CallFailure, error: unknown) => void,
  ): void {
    const { clock, logger } = this.#parts;
    const { health } = this.askRoots;
    const wasSilent = health.isSilent(peer);
    const call = this.#within(wasSilent ? SILENT_CALL_MS_MAX : TREE_CALL_MS_MAX, ask)
      .then(
        (reply) => {
          health.heard(peer);
          this.#run((nowMs) => onReply(reply, nowMs));
          for (const check of [...this.#unplaced]) check();
        },
        (error: unknown) => {
          if (this.#stop.signal.aborted) return;
          logger.warn({ root: peer, error: errorText(error) }, 'a root did not answer');
          noteFailure(health, { peer, error, nowMs: clock.nowMs() });
          this.#run((nowMs) => onFailure(nowMs, failureOf(error, wasSilent), error));
        },
      )
      .finally(() => this.#calls.delete(call));
    this.#calls.add(call);
  }

  /** Resolves when each blob has its places or was refused them, after a while, or when aborted. */
  #places(
    blobs: readonly LocatedBlob[],
    { signal, placesMsMax }: { signal: AbortSignal | undefined; placesMsMax: number },
  ): Promise<void> {
    return new Promise((resolve) => {
      const check = (): boolean => {
        if (!blobs.every(({ blob }) => this.#core.isSettled(blob))) return false;
        end();
        return true;
      };
      const end = (): void => {
        this.#unplaced.delete(check);
        timer.cancel();
        signal?.removeEventListener('abort', end);
        resolve();
      };
      const timer = this.#parts.clock.setTimer(placesMsMax, end);
      signal?.addEventListener('abort', end, { once: true });
      if (!check()) this.#unplaced.add(check);
    });
  }

  /** Runs a change of the reducer that has a result. */
  #answer<R>(change: (nowMs: number) => R): Promise<R> {
    return new Promise((resolve, reject) => {
      this.#run((nowMs) => {
        try {
          resolve(change(nowMs));
        } catch (error) {
          reject(error instanceof Error ? error : new Error(errorText(error)));
        }
      });
    });
  }

  /**
   * Asks the relays, then the roots, the next when one is late. A root asks the registry instead,
   * and so does a host when none answers.
   */
  async #fromRoots<R>(
    call: string,
    ask: (root: HostAddress, signal: AbortSignal) => Promise<R>,
    atOrigin: () => Promise<R>,
  ): Promise<R> {
    const { roots, relays = [] } = this.#upstreams;
    const above = this.#role === 'child' ? [...relays, ...roots] : roots;
    const hosts = this.#role === 'root' ? [] : above;
    const { signal } = this.#stop;
    try {
      return await this.askRoots.ask({
        call,
        hosts,
        ask,
        timeoutMs: RESOLVE_MS_MAX,
        signal,
      });
    } catch (error) {
      // The log says why each of them failed.
      if (signal.aborted) throw error;
      return atOrigin();
    }
  }

  /** Asks for at most this long, and not beyond `stop()`. */
  #within<R>(timeoutMs: number, ask: (signal: AbortSignal) => Promise<R>): Promise<R> {
    return within(this.#parts.clock, timeoutMs, ask, { signal: this.#stop.signal });
  }
}

/** The failure that a failed call shows of a root. */
function failureOf(error: unknown, wasSilent: boolean): CallFailure {
  const code = error instanceof PeerError ? error.code : undefined;
  switch (code) {
    case 'timeout':
      return 'silent';
    case 'unreachable':
    case 'cancelled':
    case 'protocol':
      return wasSilent ? 'silent' : 'failed';
    case undefined:
      return wasSilent && error instanceof DeadlineError ? 'silent' : 'failed';
    default:
      return 'refused';
  }
}
