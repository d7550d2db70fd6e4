import type { OpaqueName } from '../../image/block.ts';
import { opaqueKey } from '../../image/blob-key.ts';
import type { Digest } from '../../image/digest.ts';
import type { OpaqueUrl } from '../../registry/opaque-url.ts';
import type { BelievedSources } from '../../registry/sources.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Hash } from '../../runtime/codec.ts';
import { within } from '../../runtime/deadline.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { toHex } from '../../util/bytes.ts';
import { Limiter } from '../../util/limiter.ts';
import { orAbort } from '../../util/or-abort.ts';
import { SingleFlight } from '../../util/single-flight.ts';
import { isNo } from './access-error.ts';
import type { BlobAddress } from './contract.ts';
import type { UrlProbe } from './url-probe.ts';

/** Signed URLs that are remembered, by their hash; each client has one for each blob. */
const URLS_MAX = 16_384;

/** A URL that shows nothing to tell its object by is passed through this long unasked. (tunable) */
const UNNAMED_MS = 60_000;

/** A refusal is remembered this long: clients repeat a request several times. (tunable) */
const REFUSED_MS = 5_000;

/** While the storage is away, an older answer counts this long before it is asked again. */
const STALE_MS = 5_000;

/** Longest wait for one byte from the storage. */
const PROBE_MS_MAX = 10_000;

/** A storage that says nothing is asked again this often, for this long. (tunable) */
const RETRY_MS = 500;
const PATIENCE_MS = 10_000;

/** Questions to storages at a time, and in line; beyond, a URL is passed through. */
const ASKING_MAX = { runningMax: 64, waitingMax: 512 };

/** A blob without a digest, as the storage gave it to a URL of a client. */
export interface OpaqueBlob {
  /** Names the blocks; see blob-key.ts. */
  readonly key: Digest;
  readonly address: BlobAddress & { readonly opaque: OpaqueName };
}

/** What the storage said to one URL. */
interface Seen {
  /** Undefined: passed through. */
  readonly blob: { readonly key: Digest; readonly opaque: OpaqueName } | undefined;
  readonly shownMs: number;
  readonly untilMs: number;
}

interface Components {
  readonly probe: Pick<UrlProbe, 'opaqueAt'>;
  readonly sources: Pick<BelievedSources, 'believesOpaque'>;
  readonly hash: Pick<Hash, 'sha256'>;
  readonly clock: Clock;
  /** Something else stands where the blob with this key was. */
  readonly onChanged: (key: Digest) => void;
}

/**
 * The blobs without a digest that clients of this host read. A GET of one byte by the client's own
 * URL tells what stands there, and is the client's right to it: it holds for exactly that URL, and
 * for `acceptMs`; `staleMs` longer while the storage cannot be reached.
 */
export class OpaqueBlobs {
  readonly #parts: Components;
  readonly #acceptMs: number;
  readonly #staleMs: number;
  readonly #urls = new BoundedMap<string, Seen>({ entriesMax: URLS_MAX, evict: 'use' });
  /** The blob that was seen last at each path: what a URL showed before that counts no more. */
  readonly #latest = new BoundedMap<string, Digest>({ entriesMax: URLS_MAX, evict: 'use' });
  readonly #asking = new SingleFlight<string, Seen>();
  readonly #limiter = new Limiter(ASKING_MAX);

  constructor(
    components: Components,
    init: { readonly acceptMs: number; readonly staleMs: number },
  ) {
    this.#parts = components;
    this.#acceptMs = init.acceptMs;
    this.#staleMs = init.staleMs;
  }

  /** The blob that the URL showed recently; undefined when the storage is to be asked. */
  known(url: OpaqueUrl): OpaqueBlob | undefined {
    const seen = this.#urls.get(this.#nameOf(url));
    return seen !== undefined && this.#isValid(url, seen) ? opened(url, seen) : undefined;
  }

  /**
   * The blob at the URL; undefined when the storage is not named in the configuration, says no, or
   * tells nothing by which the object differs from another one: such a URL is passed through.
   * Rejects with the signal's reason.
   */
  async identify(url: OpaqueUrl, signal: AbortSignal): Promise<OpaqueBlob | undefined> {
    if (!this.#parts.sources.believesOpaque(url)) return undefined;
    const name = this.#nameOf(url);
    const known = this.#urls.get(name);
    if (known !== undefined && this.#isValid(url, known)) return opened(url, known);
    const asked = this.#asking.run(name, () => this.#askInTurn(url, name));
    return opened(url, await orAbort(asked, signal));
  }

  /** Whether something else stands there now. Rejects with the signal's reason. */
  async hasChanged(key: Digest, url: OpaqueUrl, signal: AbortSignal): Promise<boolean> {
    if (this.#latest.get(pathOf(url)) !== key) return true;
    const name = this.#nameOf(url);
    const asked = this.#asking.run(name, () => this.#askInTurn(url, name));
    const { blob } = await orAbort(asked, signal);
    return blob !== undefined && blob.key !== key;
  }

  /** A read found something else there: what URLs showed before counts no more. */
  forget(key: Digest): void {
    for (const [path, latest] of this.#latest) if (latest === key) this.#latest.delete(path);
  }

  #isValid(url: OpaqueUrl, { blob, untilMs }: Seen): boolean {
    if (this.#parts.clock.nowMs() >= untilMs) return false;
    return blob === undefined || this.#latest.get(pathOf(url)) === blob.key;
  }

  /** Never rejects. */
  #askInTurn(url: OpaqueUrl, name: string): Promise<Seen> {
    const turn = this.#limiter.run(() => this.#ask(url, name));
    return turn ?? Promise.resolve(this.#stale(url, name));
  }

  /** Never rejects. A storage that says nothing is asked again for a while. */
  async #ask(url: OpaqueUrl, name: string): Promise<Seen> {
    const { clock } = this.#parts;
    const untilMs = clock.nowMs() + PATIENCE_MS;
    for (;;) {
      const said = await this.#askOnce(url, name);
      if (said !== undefined) return said;
      const stale = this.#stale(url, name);
      if (stale.blob !== undefined || clock.nowMs() >= untilMs) return stale;
      await clock.sleep(RETRY_MS);
    }
  }

  /** Undefined when the storage said neither yes nor no. */
  async #askOnce(url: OpaqueUrl, name: string): Promise<Seen | undefined> {
    const { clock, probe, hash } = this.#parts;
    try {
      const found = await within(clock, PROBE_MS_MAX, (signal) => probe.opaqueAt(url.url, signal));
      if (found === undefined) return this.#set(name, undefined, UNNAMED_MS);
      const opaque = { path: url.path, ...found };
      const key = opaqueKey(hash, originAt(url, opaque));
      this.#note(url, key);
      return this.#set(name, { key, opaque }, this.#acceptMs);
    } catch (error) {
      return isNo(error) ? this.#set(name, undefined, REFUSED_MS) : undefined;
    }
  }

  /** The storage is away: what the URL showed not too long ago still counts. */
  #stale(url: OpaqueUrl, name: string): Seen {
    const seen = this.#urls.get(name);
    const nowMs = this.#parts.clock.nowMs();
    const isStill =
      seen?.blob !== undefined &&
      this.#latest.get(pathOf(url)) === seen.blob.key &&
      nowMs < seen.shownMs + this.#acceptMs + this.#staleMs;
    if (!isStill) return { blob: undefined, shownMs: nowMs, untilMs: nowMs };
    const still = { ...seen, untilMs: nowMs + STALE_MS };
    this.#urls.set(name, still);
    return still;
  }

  #set(name: string, blob: Seen['blob'], lifeMs: number): Seen {
    const shownMs = this.#parts.clock.nowMs();
    const seen = { blob, shownMs, untilMs: shownMs + lifeMs };
    this.#urls.set(name, seen);
    return seen;
  }

  #note(url: OpaqueUrl, key: Digest): void {
    const path = pathOf(url);
    const before = this.#latest.get(path);
    this.#latest.set(path, key);
    if (before !== undefined && before !== key) this.#parts.onChanged(before);
  }

  #nameOf({ url }: OpaqueUrl): string {
    return toHex(this.#parts.hash.sha256(Buffer.from(url)));
  }
}

function opened(url: OpaqueUrl, { blob }: Seen): OpaqueBlob | undefined {
  if (blob === undefined) return undefined;
  const { scheme } = url;
  const address = { ...originAt(url, blob.opaque), scheme, url: url.url };
  return { key: blob.key, address };
}

function originAt({ host, storage }: OpaqueUrl, opaque: OpaqueName) {
  return { registry: host, repository: '', storage, opaque };
}

function pathOf({ storage, path }: OpaqueUrl): string {
  return `${storage}${path}`;
}
