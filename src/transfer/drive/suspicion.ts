import type { Digest } from '../../image/digest.ts';
import type { Clock } from '../../runtime/clock.ts';
import { ExpiringMap } from '../../util/expiring-map.ts';
import type { Distrust } from '../contracts/distrust.ts';

/**
 * A blob that this host found wrong is suspected for this long without a root's word: the time in
 * which a root checks a blob once. (tunable)
 */
const SUSPECTED_MS = 3_600_000;

/** Suspected blobs that are remembered. */
const SUSPECTED_MAX = 1024;

/**
 * The blobs of which this host takes only `whole` claims: the distrusted ones, and for an hour
 * those that it found wrong itself. It may have had a wrong size for the latter, so that no such
 * finding stays without a root's word.
 */
export class Suspicion {
  readonly #distrust: Pick<Distrust, 'has'>;
  readonly #suspected: ExpiringMap<true, Digest>;

  constructor(components: { readonly distrust: Pick<Distrust, 'has'>; readonly clock: Clock }) {
    this.#distrust = components.distrust;
    this.#suspected = new ExpiringMap(components, { entriesMax: SUSPECTED_MAX });
  }

  has(digest: Digest): boolean {
    return this.#distrust.has(digest) || this.#suspected.get(digest) === true;
  }

  /** This host found that a complete blob does not have its digest. */
  suspect(digest: Digest): void {
    this.#suspected.set(digest, true, SUSPECTED_MS);
  }
}
