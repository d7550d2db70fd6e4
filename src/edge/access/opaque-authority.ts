import type { BlobOrigin, BlobRef, OpaqueName } from '../../image/block.ts';
import { opaqueKey, ownKeyOf } from '../../image/blob-key.ts';
import type { Digest } from '../../image/digest.ts';
import { opaqueUrlOf } from '../../registry/opaque-url.ts';
import type { BelievedSources } from '../../registry/sources.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Hash } from '../../runtime/codec.ts';
import { within } from '../../runtime/deadline.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { OpenReply, OpenRequest } from '../../tree/messages.ts';
import { ExpiringMap } from '../../util/expiring-map.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { SingleFlight } from '../../util/single-flight.ts';
import { isNo } from './access-error.ts';
import type { UrlProbe } from './url-probe.ts';
import { withFirst, type Way, type Ways } from './ways.ts';

/** Opaque blobs that this root has seen at their storage. */
const SEEN_MAX = 16_384;

/** What the storage said is believed for this long; reads notice a change at once. (tunable) */
const SEEN_MS = 300_000;

/** A storage that is not believed is told in the log once in this time. */
const TOLD_MS = 3_600_000;
const TOLD_MAX = 256;

/** Longest wait for the storage; hosts have asked the next root and their own way long before. */
const ASK_MS_MAX = 15_000;

interface Components {
  readonly sources: Pick<BelievedSources, 'believesOpaque'>;
  readonly ways: Ways;
  readonly probe: Pick<UrlProbe, 'opaqueAt'>;
  readonly hash: Pick<Hash, 'sha256'>;
  readonly clock: Clock;
  readonly logger: Logger;
  /** The blob stands where its name says: its blocks are read from here on by the ways to it. */
  readonly onFound: (blob: BlobRef, origin: BlobOrigin) => Promise<void>;
  /** Something else stands there now. */
  readonly onChanged: (key: Digest) => void;
}

/** An opaque blob that a host asks for. */
interface Asked {
  readonly key: Digest;
  readonly origin: BlobOrigin;
  readonly name: OpaqueName;
  /** The way that came with the question. */
  readonly lent: Way | undefined;
}

const NOT_BELIEVED: OpenReply = { outcome: 'no-way', isBelieved: false };
const NO_WAY: OpenReply = { outcome: 'no-way', isBelieved: true };
const NOT_FOUND: OpenReply = { outcome: 'not-found', challenge: '', retryAfterMs: 0 };
const UNAVAILABLE: OpenReply = { outcome: 'unavailable', challenge: '', retryAfterMs: 0 };

/**
 * What a root tells its cluster of opaque blobs. A host says the whole name (path, ETag, size) and
 * lends a URL; the root takes none of it on trust. It reads a byte there by the lent URL, and says
 * yes only when the storage, which its own configuration has to name, gives that ETag and size.
 */
export class OpaqueAuthority {
  readonly #parts: Components;
  readonly #seen: ExpiringMap<'there', Digest>;
  /** The blob that was seen last at each path. */
  readonly #latest: ExpiringMap<Digest>;
  /** Storages that were told in the log as not believed. */
  readonly #told: ExpiringMap<true>;
  readonly #asking = new SingleFlight<Digest, 'there' | OpenReply>();

  constructor(components: Components) {
    this.#parts = components;
    this.#seen = new ExpiringMap(components, { entriesMax: SEEN_MAX });
    this.#latest = new ExpiringMap(components, { entriesMax: SEEN_MAX });
    this.#told = new ExpiringMap(components, { entriesMax: TOLD_MAX });
  }

  /**
   * Never rejects. `lender` is the peer that asks; undefined for this host itself. `no-way`: no URL
   * works from here; `not-found`: something else is there; `unavailable`: the storage did not tell.
   */
  async open(request: OpenRequest, lender: PeerId | undefined): Promise<OpenReply> {
    const { digest: key, origin, url } = request;
    const name = origin.opaque;
    if (name === undefined || !this.#isSound(key, origin, name)) return NOT_BELIEVED;
    if (!this.#isBelieved(origin, name)) return NOT_BELIEVED;
    const lent = url === undefined ? undefined : this.#takeWay(key, { origin, url }, lender);
    const found = this.#seen.get(key) ?? (await this.#findWith({ key, origin, name, lent }));
    if (found !== 'there') return found;
    const { sizeBytes } = name;
    return { outcome: 'open', key, sizeBytes, isPublic: false, isBelieved: true };
  }

  /** The storage gave something else: the next OPEN finds it out anew. */
  forget(key: Digest): void {
    this.#seen.delete(key);
  }

  /** Whether the key is made of just this name. */
  #isSound(key: Digest, origin: BlobOrigin, { sizeBytes }: OpaqueName): boolean {
    const isWhole = origin.storage !== undefined && sizeBytes > 0;
    return isWhole && ownKeyOf(this.#parts.hash, origin) === key;
  }

  /** Whether the configuration of this root names the storage; a log line says when not. */
  #isBelieved({ storage = '' }: BlobOrigin, { path }: OpaqueName): boolean {
    const { sources, logger } = this.#parts;
    if (sources.believesOpaque({ storage, path })) return true;
    if (this.#told.get(storage) === undefined) {
      this.#told.set(storage, true, TOLD_MS);
      const add = `registries[].opaqueStorage: ["${storage}"]`;
      logger.warn({ source: storage, add }, 'hosts name a storage that this root does not know');
    }
    return false;
  }

  /** Takes in a URL of just this object. */
  #takeWay(
    key: Digest,
    { origin, url }: { readonly origin: BlobOrigin; readonly url: string },
    lender: PeerId | undefined,
  ): Way | undefined {
    const asked = opaqueUrlOf(url);
    if (asked?.storage !== origin.storage || asked?.path !== origin.opaque?.path) return undefined;
    const way = { url, authorization: undefined, ...(lender !== undefined && { lender }) };
    return this.#parts.ways.add(key, way);
  }

  /** Joins the question in flight; as BlobAuthority, no way is no word on a URL that came later. */
  async #findWith(asked: Asked): Promise<'there' | OpenReply> {
    for (;;) {
      let isOwn = false;
      const found = await this.#asking.run(asked.key, () => {
        isOwn = true;
        return this.#find(asked);
      });
      if (found !== NO_WAY || asked.lent === undefined || isOwn) return found;
    }
  }

  async #find(asked: Asked): Promise<'there' | OpenReply> {
    const { clock, onFound } = this.#parts;
    const { key, origin, name } = asked;
    try {
      const found = await within(clock, ASK_MS_MAX, (signal) => this.#ask(asked, signal));
      if (found !== 'there') return found;
      await onFound({ digest: key, sizeBytes: name.sizeBytes }, origin);
      this.#seen.set(key, 'there', SEEN_MS);
      return 'there';
    } catch {
      return UNAVAILABLE;
    }
  }

  /** Whether the object is what its name says, by the first URL that works. */
  async #ask(
    { key, origin, name, lent }: Asked,
    signal: AbortSignal,
  ): Promise<'there' | OpenReply> {
    const { ways, probe, hash } = this.#parts;
    let failure: OpenReply = NO_WAY;
    for (const way of withFirst(lent, ways.of(key))) {
      try {
        const found = await probe.opaqueAt(way.url, signal);
        if (found === undefined) continue;
        ways.gave(key, way);
        const there = opaqueKey(hash, { ...origin, opaque: { path: name.path, ...found } });
        this.#note(`${origin.storage}${name.path}`, there);
        return there === key ? 'there' : NOT_FOUND;
      } catch (error) {
        signal.throwIfAborted();
        if (isNo(error)) ways.remove(key, way);
        else failure = UNAVAILABLE;
      }
    }
    return failure;
  }

  /** What stood there before is there no more. */
  #note(path: string, there: Digest): void {
    const before = this.#latest.get(path);
    this.#latest.set(path, there, SEEN_MS);
    if (before === undefined || before === there) return;
    this.forget(before);
    this.#parts.onChanged(before);
  }
}
