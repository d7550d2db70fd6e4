import type { BlobOrigin, BlobRef } from '../../image/block.ts';
import { isOwnKey, quarantineKey } from '../../image/blob-key.ts';
import type { Digest } from '../../image/digest.ts';
import { isPublicHttps, type BelievedSources } from '../../registry/sources.ts';
import { shapeOf } from '../../registry/url-shape.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Hash } from '../../runtime/codec.ts';
import { within } from '../../runtime/deadline.ts';
import type { Logger } from '../../runtime/logger.ts';
import { OriginError, type BlobStat } from '../../transfer/contracts/origin.ts';
import type { OpenReply, OpenRequest } from '../../tree/messages.ts';
import { ExpiringMap } from '../../util/expiring-map.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { orAbort } from '../../util/or-abort.ts';
import { SingleFlight } from '../../util/single-flight.ts';
import { refusalOf } from '../client-errors.ts';
import { AccessError } from './access-error.ts';
import type { OpaqueAuthority } from './opaque-authority.ts';
import type { UrlProbe } from './url-probe.ts';
import { withFirst, type Way, type Ways } from './ways.ts';

/**
 * Blobs whose size is remembered, and sources of blobs whose word is; as many as are open at a time
 * on a busy root.
 */
const FACTS_MAX = 16_384;

/**
 * What the registry said is believed for this long: a blob that is no longer public stays open at a
 * root until then, and at a host that asked the root for five minutes more. (tunable)
 */
const FACTS_MS = 300_000;

/** While nobody can tell, an answer counts until it is this old. */
const OLD_FACTS_MS = 24 * 3_600_000;

/**
 * Where an old answer is known, the registry has this long for a newer one before hosts hear the
 * old one; the question goes on. A host waits no longer for a root. (tunable)
 */
const NEWS_MS = 1_000;

/** A failure to ask is told to all hosts for this long without asking again. (tunable) */
const REFUSAL_MS = 5_000;

/**
 * One that may pass, for this long: clients with patience have roots asked again. (tunable)
 */
const AWAY_MS = 1_000;

/** Longest wait for the registry; hosts have asked the next root and their own way long before. */
const ASK_MS_MAX = 15_000;

/** A blob of which a source is asked. */
interface Asked {
  readonly key: Digest;
  readonly source: Source;
  /** Names blob and source. */
  readonly name: string;
  readonly isBelieved: boolean;
}

/** Where a blob is said to be. */
interface Source {
  readonly digest: Digest;
  readonly origin: BlobOrigin;
}

/** What a source said of a blob. */
interface Facts {
  readonly sizeBytes: number;
  readonly isPublic: boolean;
  /** When, in milliseconds of the clock. */
  readonly saidMs: number;
}

interface Components {
  /**
   * Size of a blob by the root's own credentials, and whether anybody may read it. Rejects with
   * OriginError.
   */
  readonly stat: (digest: Digest, origin: BlobOrigin, signal: AbortSignal) => Promise<BlobStat>;
  readonly sources: BelievedSources;
  readonly ways: Ways;
  readonly probe: Pick<UrlProbe, 'sizeAt'>;
  /** Decides about blobs without a digest. */
  readonly opaque: Pick<OpaqueAuthority, 'open'>;
  readonly hash: Pick<Hash, 'sha256'>;
  readonly clock: Clock;
  readonly logger: Logger;
  /**
   * The size of a blob is found: its blocks are read from here on where the origin says, asked for
   * by `digest`. Resolves when what was held with another size is dropped.
   */
  readonly onFound: (blob: BlobRef, source: Source) => Promise<void>;
}

/**
 * What a root tells its cluster of a blob: size, whether it is public, whether its source is
 * believed. It asks each source itself, once for all hosts; no word of a host counts, and what is
 * public in one repository is not so in another by that. What a host lends is a URL alone, and what
 * stands there is held against what is known.
 *
 * This is the one memory of what a root knows of a blob: an answer is used for minutes, then asked
 * for anew, and used beyond that only while nobody can tell. A no of its source ends it.
 */
export class BlobAuthority {
  readonly #parts: Components;
  /** By blob and source: what one of them said is public, or is there, counts for no other. */
  readonly #facts: ExpiringMap<Facts>;
  /** By blob: what sources said last. Without it no facts count. */
  readonly #sizes: ExpiringMap<number, Digest>;
  readonly #refusals: ExpiringMap<OpenReply>;
  readonly #asking = new SingleFlight<string, OpenReply>();
  /** Sources that were told in the log as not believed. */
  readonly #told: ExpiringMap<true>;

  constructor(components: Components) {
    this.#parts = components;
    this.#facts = new ExpiringMap(components, { entriesMax: FACTS_MAX });
    this.#sizes = new ExpiringMap(components, { entriesMax: FACTS_MAX });
    this.#refusals = new ExpiringMap(components, { entriesMax: FACTS_MAX });
    this.#told = new ExpiringMap(components, { entriesMax: 256 });
  }

  /** Never rejects. `lender` is the peer that asks; undefined for this host itself. */
  async open(request: OpenRequest, lender: PeerId | undefined): Promise<OpenReply> {
    const { digest, origin } = request;
    if (origin.opaque !== undefined) return this.#parts.opaque.open(request, lender);
    if (isOwnKey(digest)) return { outcome: 'not-found', challenge: '', retryAfterMs: 0 };
    const isBelieved = this.#parts.sources.believesOrigin(origin);
    const key = isBelieved ? digest : quarantineKey(this.#parts.hash, digest, origin);
    const lent = this.#takeWay(key, request, lender);
    const name = `${key} ${nameOf(origin)}`;
    const known = this.#facts.get(name);
    if (known !== undefined && this.#counts(key, known)) return openReply(key, known, isBelieved);
    const elsewhere = this.#elsewhere(key, isBelieved);
    // At a storage there is nothing to ask about: its own URLs open it, or nothing does.
    if (elsewhere !== undefined && origin.storage !== undefined) return elsewhere;
    const refused = lent === undefined ? this.#refusals.get(name) : undefined;
    if (refused !== undefined) return elsewhere ?? refused;
    const asked: Asked = { key, source: { digest, origin }, name, isBelieved };
    const asking = this.#ask(asked, lent);
    const old = this.#old(asked);
    const meanwhile = old === undefined ? elsewhere : openReply(key, old, isBelieved);
    return meanwhile === undefined ? asking : this.#soon(asking, meanwhile);
  }

  /** The source proved to give something of another size: the next OPEN finds it out anew. */
  forget(key: Digest): void {
    this.#sizes.delete(key);
  }

  /** Whether nothing has shown since that the size is wrong. */
  #counts(key: Digest, { sizeBytes }: Facts): boolean {
    return this.#sizes.getStale(key) === sizeBytes;
  }

  /**
   * What a source hears that did not say so itself, while another one has said it: the size. A
   * client then needs a right of its own.
   */
  #elsewhere(key: Digest, isBelieved: boolean): OpenReply | undefined {
    const sizeBytes = this.#sizes.get(key);
    if (sizeBytes === undefined) return undefined;
    return openReply(key, { sizeBytes, isPublic: false }, isBelieved);
  }

  /** The answer, or the old one when it takes too long. */
  #soon(asking: Promise<OpenReply>, old: OpenReply): Promise<OpenReply> {
    const inTime = within(this.#parts.clock, NEWS_MS, (signal) => orAbort(asking, signal));
    return inTime.catch(() => old);
  }

  /** What the source said and has not become too old, believed for now or not. */
  #old({ key, name }: Asked): Facts | undefined {
    const facts = this.#facts.getStale(name);
    if (facts === undefined || !this.#counts(key, facts)) return undefined;
    return this.#parts.clock.nowMs() - facts.saidMs >= OLD_FACTS_MS ? undefined : facts;
  }

  /**
   * Joins the question in flight. That this one found no way says nothing of a URL that came after
   * it had begun: it is asked again, with that URL first.
   */
  async #ask(asked: Asked, lent: Way | undefined): Promise<OpenReply> {
    for (;;) {
      let isOwn = false;
      const reply = await this.#asking.run(asked.name, () => {
        isOwn = true;
        return this.#find(asked, lent);
      });
      if (reply.outcome !== 'no-way' || lent === undefined || isOwn) return reply;
    }
  }

  async #find(asked: Asked, lent: Way | undefined): Promise<OpenReply> {
    const { key, source, isBelieved } = asked;
    if (!isBelieved) this.#tellUnbelieved(source.origin);
    const { clock } = this.#parts;
    try {
      const stat = await within(clock, ASK_MS_MAX, (signal) =>
        this.#stat(key, { ...source, lent }, signal),
      );
      if (stat === undefined) return { outcome: 'no-way', isBelieved };
      const facts = this.#learn(asked, stat);
      await this.#parts.onFound({ digest: key, sizeBytes: facts.sizeBytes }, source);
      return openReply(key, facts, isBelieved);
    } catch (error) {
      return this.#notFound(asked, error);
    }
  }

  /** Throws OriginError when another source has just said another size. */
  #learn(asked: Asked, { sizeBytes, isPublic }: BlobStat): Facts {
    const { key, name } = asked;
    const known = this.#sizes.get(key);
    if (known !== undefined && known !== sizeBytes) {
      const text = `${name} has ${sizeBytes} bytes, but ${known} at another source`;
      throw new OriginError(text, { code: 'protocol' });
    }
    const nowMs = this.#parts.clock.nowMs();
    const old = isPublic === undefined ? this.#old(asked) : undefined;
    const facts: Facts =
      old === undefined
        ? { sizeBytes, isPublic: isPublic ?? false, saidMs: nowMs }
        : { ...old, sizeBytes };
    this.#facts.set(name, facts, FACTS_MS);
    this.#sizes.set(key, sizeBytes, FACTS_MS);
    return facts;
  }

  /** Nobody could tell: then the old answer counts. Or the source said no. */
  #notFound(asked: Asked, error: unknown): OpenReply {
    const { key, name, isBelieved } = asked;
    const old = this.#old(asked);
    const isNo =
      error instanceof OriginError && (error.code === 'not-found' || error.code === 'refused');
    if (old !== undefined && !isNo) {
      this.#facts.set(name, old, REFUSAL_MS);
      return openReply(key, old, isBelieved);
    }
    if (isNo) this.#facts.delete(name);
    const reply = refusalOf(error);
    const isAway = error instanceof OriginError && error.code === 'unavailable';
    const isPassing = isAway && reply.outcome === 'unavailable';
    this.#refusals.set(name, reply, isPassing ? AWAY_MS : REFUSAL_MS);
    return this.#elsewhere(key, isBelieved) ?? reply;
  }

  async #stat(
    key: Digest,
    { digest, origin, lent }: Source & { readonly lent: Way | undefined },
    signal: AbortSignal,
  ): Promise<BlobStat | undefined> {
    if (origin.storage !== undefined) return this.#askWays(key, lent, signal);
    if (!this.#parts.sources.isRegistry(origin.registry) && !isPublicHttps(origin.registry)) {
      return undefined;
    }
    return this.#parts.stat(digest, origin, signal);
  }

  /** The first lent URL that works tells the size. */
  async #askWays(
    key: Digest,
    lent: Way | undefined,
    signal: AbortSignal,
  ): Promise<BlobStat | undefined> {
    const { ways, probe } = this.#parts;
    for (const way of withFirst(lent, ways.of(key))) {
      try {
        const isLent = way.lender !== undefined;
        const sizeBytes = await probe.sizeAt(way, signal, { isLent });
        ways.gave(key, way);
        return { sizeBytes, isPublic: false };
      } catch (error) {
        signal.throwIfAborted();
        // The host that lent it reads by it itself; that it fails here is no refusal of anybody.
        if (error instanceof AccessError) ways.remove(key, way);
      }
    }
    return undefined;
  }

  /** Takes in a lent URL when it is what the request says it is. */
  #takeWay(key: Digest, { digest, origin, url }: OpenRequest, lender: PeerId | undefined) {
    if (url === undefined || origin.storage === undefined || lender === undefined) return undefined;
    const shape = shapeOf(url);
    if (shape.kind !== 'storage' || shape.digest !== digest) return undefined;
    if (shape.prefix !== origin.storage) return undefined;
    if (
      !this.#parts.sources.believes(shape) &&
      !(shape.scheme === 'https' && isPublicHttps(shape.host))
    ) {
      return undefined;
    }
    return this.#parts.ways.add(key, { url, authorization: undefined, lender });
  }

  #tellUnbelieved(origin: BlobOrigin): void {
    const source = origin.storage ?? origin.registry;
    if (this.#told.get(source) === true) return;
    this.#told.set(source, true, 3_600_000);
    const add =
      origin.storage === undefined
        ? `registries: [{host: "${origin.registry}"}]`
        : `registries[].storage: ["${origin.storage}"]`;
    const text =
      'a source that the configuration does not name: its blobs are shared in quarantine';
    this.#parts.logger.warn({ source, add }, text);
  }
}

/** Names a source: a storage, or a repository of a registry. */
function nameOf({ registry, repository, storage }: BlobOrigin): string {
  return storage ?? `${registry}/${repository}`;
}

function openReply(
  key: Digest,
  { sizeBytes, isPublic }: Pick<Facts, 'sizeBytes' | 'isPublic'>,
  isBelieved: boolean,
): OpenReply {
  return { outcome: 'open', key, sizeBytes, isPublic, isBelieved };
}
