import type { BlobOrigin, BlobRef } from '../../image/block.ts';
import { hasOwnKey, isOwnKey, ownKeyOf } from '../../image/blob-key.ts';
import type { Digest } from '../../image/digest.ts';
import type { Clock } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import type { Hash } from '../../runtime/codec.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { OriginError, type Origin } from '../contracts/origin.ts';

/** Twice as many as there are blobs known (src/transfer/core/core-types.ts). */
const ORIGINS_MAX = 32_768;

/** Longest wait for a registry that is asked about a peer's word, in milliseconds. */
const LOOK_MS_MAX = 15_000;

/** Peers' words that a root asks registries about at a time; the others are passed over. */
const LOOKS_MAX = 64;

interface Components {
  readonly origin: Pick<Origin, 'stat' | 'believes'>;
  readonly hash: Pick<Hash, 'sha256'>;
  readonly clock: Clock;
}

interface Place {
  readonly origin: BlobOrigin;
  /** By this host itself, and the registry has not said no since. */
  readonly isFound: boolean;
}

/**
 * Where registries have the blobs that the reducer knows, and some blobs about to be read. A peer's
 * word does not move a blob whose place this host found in a registry: it could lead the whole
 * cluster to where the blob is not.
 */
export class BlobOrigins {
  readonly #parts: Components;
  readonly #isRoot: boolean;
  readonly #stop: AbortSignal;
  readonly #places = new BoundedMap<Digest, Place>({ entriesMax: ORIGINS_MAX, evict: 'use' });
  /** Peers' words that a registry is asked about. */
  readonly #looks = new Set<string>();

  constructor(
    components: Components,
    init: { readonly isRoot: boolean; readonly stop: AbortSignal },
  ) {
    this.#parts = components;
    this.#isRoot = init.isRoot;
    this.#stop = init.stop;
  }

  /** As far as this host knows. */
  of(key: Digest): BlobOrigin | undefined {
    return this.#places.get(key)?.origin;
  }

  /** Blocks with this key are read here from now on. */
  set(key: Digest, origin: BlobOrigin): void {
    this.#places.set(key, { origin, isFound: true });
  }

  /** This host has found the blob here too: the place in use stays while it holds. */
  found(key: Digest, origin: BlobOrigin): void {
    if (!this.#isSettled(key)) this.set(key, origin);
  }

  /** The registry has said no to a read there. */
  refused(key: Digest, origin: BlobOrigin): void {
    if (this.of(key) === origin) this.#places.set(key, { origin, isFound: false });
  }

  /**
   * Takes in where a peer says a blob is. The word counts only when the configuration believes the
   * source, or when the blocks have the key of that very source: a peer that names a blob must not
   * lead others to a server of its own. A root that knows a place already asks the registry first.
   */
  told(blob: BlobRef, origin: BlobOrigin): void {
    const key = blob.digest;
    if (!this.#isSound(blob, origin)) return;
    const known = this.#places.get(key);
    if (known === undefined) {
      this.#places.set(key, { origin, isFound: false });
      return;
    }
    const isSame = JSON.stringify(known.origin) === JSON.stringify(origin);
    if (isSame || origin.storage !== undefined || this.#isSettled(key)) return;
    if (this.#isRoot) void this.#look(blob, origin);
    else this.#places.set(key, { origin, isFound: false });
  }

  delete(key: Digest): void {
    this.#places.delete(key);
  }

  /** URLs of a storage expire: a registry is better than these. */
  #isSettled(key: Digest): boolean {
    const known = this.#places.get(key);
    return known?.isFound === true && known.origin.storage === undefined;
  }

  #isSound({ digest: key, sizeBytes }: BlobRef, origin: BlobOrigin): boolean {
    const { origin: registries, hash } = this.#parts;
    return isOwnKey(key)
      ? ownKeyOf(hash, origin) === key && (origin.opaque?.sizeBytes ?? sizeBytes) === sizeBytes
      : !hasOwnKey(origin) && registries.believes(origin);
  }

  /** Takes the place when the registry has the blob there, with its size. */
  async #look({ digest: key, sizeBytes }: BlobRef, origin: BlobOrigin): Promise<void> {
    const look = `${key} ${origin.registry}/${origin.repository}`;
    if (this.#looks.size >= LOOKS_MAX || this.#looks.has(look)) return;
    this.#looks.add(look);
    const { clock, origin: registries } = this.#parts;
    try {
      const stat = await within(
        clock,
        LOOK_MS_MAX,
        (signal) => registries.stat(origin.content ?? key, origin, signal),
        { signal: this.#stop },
      );
      if (stat.sizeBytes === sizeBytes && this.#places.has(key)) this.found(key, origin);
    } catch {
      // Then it is not known to be there: the place in use stays.
    } finally {
      this.#looks.delete(look);
    }
  }
}

/** Whether the registry will go on saying no, as of a blob that it has not got there. */
export function isRefusal(error: unknown): boolean {
  return error instanceof OriginError && (error.code === 'not-found' || error.code === 'refused');
}
