import type { BlobOrigin } from '../../image/block.ts';
import { digestOf, parseDigest, type Digest } from '../../image/digest.ts';
import { manifestFault } from '../../image/manifest-form.ts';
import type { FetchedManifest } from '../../registry/manifest-reader.ts';
import type { Referrer } from '../../registry/referrers.ts';
import type { OperationOptions } from '../../registry/http/retry.ts';
import { checkOrigin, checkTagOrDigest } from '../../registry/reference.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { Counter, Metrics } from '../../runtime/metrics.ts';
import type {
  AgentRole,
  HostAddress,
  ManifestReply,
  ManifestRequest,
} from '../../tree/messages.ts';
import type { Caller, TreeCalls } from '../../transfer/contracts/calls.ts';
import { PeerError } from '../../transfer/contracts/transport.ts';
import type { AskRoots } from '../../transfer/drive/ask-roots.ts';
import { rendezvousOrder } from '../../tree/rendezvous.ts';
import { ExpiringMap } from '../../util/expiring-map.ts';
import { Limiter } from '../../util/limiter.ts';
import { orAbort } from '../../util/or-abort.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { encodeList, listedFor } from './block-image-list.ts';
import { nameOf, type KeptManifest, type ManifestCache } from './manifest-cache.ts';
import { mirrorMetrics } from './metrics.ts';
import { blobError, manifestRefusalOf, refusalCode, refusalError } from '../client-errors.ts';
import { BlobError, overloadedError } from '../http/blob-error.ts';
import { FailureLog } from '../http/failure-log.ts';

/**
 * Longest wait for the registry, all attempts included, and how many: clients of a mirror have the
 * registry itself to go to.
 */
const ORIGIN = { timeoutMs: 9_000, attemptsMax: 3 };

/**
 * The same of a child whose root has just failed there: it is the last resort, and most children
 * cannot reach a registry at all.
 */
const ORIGIN_AGAIN = { timeoutMs: 5_000, attemptsMax: 1 };

/**
 * Longest wait for a root. With two of them and the registry itself there is an outcome within
 * 27 s: see endpoint.ts.
 */
const ROOT_MS_MAX = 9_000;

/** Relays and roots that are asked, the one that is to keep the manifest first. */
const ASKED_MAX = 2;

/** A registry that limits requests is left alone for as long as it says, within bounds. */
const LIMITED_MS_MIN = 1_000;
const LIMITED_MS_MAX = 30_000;

/**
 * So is one that cannot be reached: three attempts were made, and clients ask for a tag twice or
 * three times in a row.
 */
const AWAY_MS = 3_000;

/** References for which the registry is left alone. */
const LEFT_ALONE_MAX = 1024;

/** Questions in flight at a time, and in line. */
const RUNNING_MAX = 64;
const WAITING_MAX = 1024;

/** What a root says of the registry's answer that another one to this host would not change. */
const FINAL: ReadonlySet<string> = new Set(['not-found', 'rate-limited', 'bad-content']);

interface Upstreams {
  readonly roots: readonly HostAddress[];
  readonly relays: readonly HostAddress[];
}

interface ManifestsComponents {
  readonly cache: ManifestCache;
  readonly hash: Hash;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly origin: {
    /** Rejects with RegistryError. */
    manifest(
      origin: BlobOrigin,
      reference: string,
      options: OperationOptions,
    ): Promise<FetchedManifest>;
    blockImages(
      origin: BlobOrigin,
      digest: Digest,
      options: OperationOptions,
    ): Promise<readonly Referrer[]>;
  };
  /** Whether a block image is given to nobody any more. */
  readonly isRemoved?: ((digest: Digest) => boolean) | undefined;
  readonly transport: Caller<TreeCalls>;
  readonly askRoots: AskRoots;
}

interface ManifestsInit {
  readonly self: PeerId;
  readonly role: AgentRole;
  /** How long a tag is believed without asking the registry again. */
  readonly tagMs: number;
  /** How much longer it is believed while the registry cannot be reached; 0 for not at all. */
  readonly staleMs: number;
}

/** A manifest, and how long ago the registry said that its reference stands for it. */
interface Found {
  readonly manifest: KeptManifest;
  readonly ageMs: number;
}

/** A question in flight, shared by all that ask for the same. */
interface Flight {
  readonly found: Promise<Found>;
  /** Aborted when the last of them has left: in line, it is dropped. */
  readonly left: AbortController;
  callers: number;
}

/**
 * Manifests by tag and digest, and the lists of their block images: from this host, from the root
 * that keeps those of the reference, from the registry.
 *
 * Digests are asked once. Tags are asked again after a while; a child asks its root each time, so
 * that all hosts learn of a moved tag at the same time. All that ask for one reference at a time
 * share the answer. Rejects with BlobError.
 */
export class Manifests {
  readonly #parts: ManifestsComponents;
  readonly #init: ManifestsInit;
  readonly #limiter = new Limiter({ runningMax: RUNNING_MAX, waitingMax: WAITING_MAX });
  readonly #underWay = new Map<string, Flight>();
  /** What references were recently refused with. */
  readonly #leftAlone: ExpiringMap<BlobError>;
  readonly #found: Counter;
  readonly #failures: FailureLog;
  #upstreams: Upstreams = { roots: [], relays: [] };

  constructor(components: ManifestsComponents, init: ManifestsInit) {
    this.#parts = components;
    this.#init = init;
    this.#leftAlone = new ExpiringMap(components, { entriesMax: LEFT_ALONE_MAX });
    this.#found = mirrorMetrics(components.metrics).manifests;
    this.#failures = new FailureLog(components, { message: 'a root did not give a manifest' });
  }

  /** The roots and relays that exist now, this host among them if it is one. */
  setUpstreams(upstreams: Upstreams): void {
    this.#upstreams = upstreams;
  }

  /** For a client of this host. */
  async get(origin: BlobOrigin, reference: string, signal: AbortSignal): Promise<KeptManifest> {
    const above = this.#above(origin, reference);
    return (await this.#find(origin, reference, above, signal)).manifest;
  }

  /** For a peer: a root looks here and at the registry, a relay asks a root. Never rejects. */
  async answer(_peer: PeerId, { origin, reference }: ManifestRequest): Promise<ManifestReply> {
    try {
      // A peer's words: this host asks the registry for them with credentials of its own.
      checkOrigin(origin);
      if (listedFor(reference) === undefined) checkTagOrDigest(reference);
      const above = this.#init.role === 'root' ? [] : this.#above(origin, reference);
      const { manifest, ageMs } = await this.#find(origin, reference, above);
      return { outcome: 'found', ...manifest, ageMs };
    } catch (error) {
      return manifestRefusalOf(error);
    }
  }

  /**
   * Whom to ask, in order: for a child one relay, if there are any; then roots, up to this host.
   */
  #above(origin: BlobOrigin, reference: string): readonly HostAddress[] {
    const key = digestOf(this.#parts.hash, Buffer.from(nameOf(origin, reference)));
    const order = (hosts: readonly HostAddress[]): readonly HostAddress[] =>
      rendezvousOrder(
        key,
        0,
        hosts.map((host) => host.peer),
      ).flatMap((peer) => hosts.find((host) => host.peer === peer) ?? []);
    const { self, role } = this.#init;
    const relays = role === 'child' ? order(this.#upstreams.relays).slice(0, 1) : [];
    const above = [...relays, ...order(this.#upstreams.roots)].slice(0, ASKED_MAX);
    const own = above.findIndex((host) => host.peer === self);
    return above.slice(0, own < 0 ? above.length : own);
  }

  async #find(
    origin: BlobOrigin,
    reference: string,
    roots: readonly HostAddress[],
    signal?: AbortSignal,
  ): Promise<Found> {
    const digest = parseDigest(reference);
    const known = digest === undefined ? undefined : this.#parts.cache.manifest(origin, digest);
    if (known !== undefined) return this.#count('cache', { manifest: known, ageMs: 0 });
    const fresh = roots.length > 0 ? undefined : this.#kept(origin, reference, this.#init.tagMs);
    if (fresh !== undefined) return this.#count('cache', fresh);
    // What a root answers never waits for another root.
    const key = `${roots.length === 0 ? '' : 'roots '}${nameOf(origin, reference)}`;
    const underWay = this.#underWay.get(key);
    const isOpen = underWay !== undefined && !underWay.left.signal.aborted;
    const flight = isOpen ? underWay : this.#begin(key, () => this.#ask(origin, reference, roots));
    flight.callers++;
    try {
      return await (signal === undefined ? flight.found : orAbort(flight.found, signal));
    } finally {
      if (--flight.callers === 0) flight.left.abort(new Error('nobody waits for it any more'));
    }
  }

  #begin(key: string, task: () => Promise<Found>): Flight {
    const left = new AbortController();
    const turn = this.#limiter.run(task, left.signal);
    if (turn === undefined)
      throw overloadedError(`${WAITING_MAX} manifests are waited for already`);
    const found = turn.finally(() => {
      if (this.#underWay.get(key) === flight) this.#underWay.delete(key);
    });
    const flight = { found, left, callers: 0 };
    this.#underWay.set(key, flight);
    return flight;
  }

  async #ask(origin: BlobOrigin, reference: string, roots: readonly HostAddress[]): Promise<Found> {
    let refusal: BlobError | undefined;
    if (roots.length > 0) {
      try {
        return this.#count('root', await this.#askRoots(origin, reference, roots));
      } catch (error) {
        const told = error instanceof BlobError ? error : undefined;
        if (told !== undefined && FINAL.has(told.code)) throw told;
        refusal = told;
        this.#failures.note(error, { reference });
      }
    }
    const limits = refusal === undefined ? ORIGIN : ORIGIN_AGAIN;
    try {
      return this.#count('origin', await this.#askOrigin(origin, reference, limits));
    } catch (error) {
      const own = blobError(error);
      if (!isAway(own)) throw own;
      const { tagMs, staleMs } = this.#init;
      const stale = staleMs > 0 ? this.#kept(origin, reference, tagMs + staleMs) : undefined;
      if (stale !== undefined) return this.#count('stale', stale);
      // Many a host cannot reach the registry: then what a root heard there says more.
      throw refusal ?? own;
    }
  }

  #askRoots(origin: BlobOrigin, reference: string, hosts: readonly HostAddress[]): Promise<Found> {
    return this.#parts.askRoots.ask({
      call: 'manifest',
      hosts,
      timeoutMs: ROOT_MS_MAX,
      ask: (root, signal) => this.#askRoot(root, { origin, reference }, signal),
      // The registry's own words, which another root would only hear again.
      isFinal: (error) => error instanceof BlobError,
    });
  }

  async #askRoot(root: HostAddress, request: ManifestRequest, signal: AbortSignal): Promise<Found> {
    const { hash, transport } = this.#parts;
    const { origin, reference } = request;
    const reply = await transport.call(root, 'manifest', request, signal);
    const isDigest = parseDigest(reference) !== undefined;
    const what = `${origin.registry}/${origin.repository}${isDigest ? '@' : ':'}${reference}`;
    if (reply.outcome !== 'found') throw refusalError(what, reply);
    const { digest, mediaType, bytes, ageMs } = reply;
    const wanted = parseDigest(reference) ?? digest;
    const fault = manifestFault(bytes, mediaType);
    if (fault !== undefined || wanted !== digest || digestOf(hash, bytes) !== digest) {
      // No word of the registry, so that the next root is asked.
      throw new PeerError(`a root gave another manifest for ${what}`, { code: 'protocol' });
    }
    return this.#keep(origin, reference, { manifest: { digest, mediaType, bytes }, ageMs });
  }

  async #askOrigin(
    origin: BlobOrigin,
    reference: string,
    limits: OperationOptions,
  ): Promise<Found> {
    const name = nameOf(origin, reference);
    const alone = this.#leftAlone.get(name);
    if (alone !== undefined) throw alone;
    try {
      const listed = listedFor(reference);
      const { digest, mediaType, bytes } =
        listed === undefined
          ? await this.#parts.origin.manifest(origin, reference, limits)
          : await this.#list(origin, listed, limits);
      return this.#keep(origin, reference, { manifest: { digest, mediaType, bytes }, ageMs: 0 });
    } catch (error) {
      const told = blobError(error);
      if (told.code === 'rate-limited' || isAway(told)) this.#leaveAlone(name, told);
      throw told;
    }
  }

  async #list(origin: BlobOrigin, of: Digest, limits: OperationOptions): Promise<KeptManifest> {
    const { hash, isRemoved = () => false } = this.#parts;
    const images = await this.#parts.origin.blockImages(origin, of, limits);
    const list = encodeList(images.filter(({ digest }) => !isRemoved(digest)));
    return { ...list, digest: digestOf(hash, list.bytes) };
  }

  #leaveAlone(name: string, error: BlobError): void {
    const askedMs = error.detail.retryAfterMs ?? 0;
    const limitedMs = Math.min(LIMITED_MS_MAX, Math.max(LIMITED_MS_MIN, askedMs));
    const forMs = error.code === 'rate-limited' ? limitedMs : AWAY_MS;
    this.#leftAlone.set(name, error, forMs);
  }

  #keep(origin: BlobOrigin, reference: string, found: Found): Found {
    const { cache, clock } = this.#parts;
    cache.putManifest(origin, found.manifest);
    const { digest } = found.manifest;
    if (parseDigest(reference) === undefined) {
      cache.putTag(origin, reference, { digest, checkedMs: clock.wallMs() - found.ageMs });
    }
    return found;
  }

  /** What a tag stood for at most so long ago. A clock that was set back makes no tag fresh. */
  #kept(origin: BlobOrigin, reference: string, ageMsMax: number): Found | undefined {
    const { cache, clock } = this.#parts;
    const tag = cache.tag(origin, reference);
    if (tag === undefined) return undefined;
    const ageMs = clock.wallMs() - tag.checkedMs;
    const manifest = cache.manifest(origin, tag.digest);
    const isGood = manifest !== undefined && ageMs >= 0 && ageMs < ageMsMax;
    return isGood ? { manifest, ageMs } : undefined;
  }

  #count(source: string, found: Found): Found {
    this.#found.inc({ source });
    return found;
  }
}

/** Whether the registry said nothing, rather than something that holds for a while. */
function isAway({ code }: BlobError): boolean {
  return code !== 'bad-content' && refusalCode(code) === 'unavailable';
}
