import type { BlobOrigin, BlobRef } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { PeerId } from '../../util/peer-id.ts';
import type { HeapTimer } from '../../util/timer-heap.ts';
import {
  openBlobId,
  type OpenBlobsInit,
  type OpenRefusal,
  type OpenRequest,
  type OpenedBlob,
  type RightKey,
} from './open-blob-types.ts';
import { OpenRights } from './open-rights.ts';
import { SmallMap } from '../../util/small-map.ts';
import { SmallSet } from '../../util/small-set.ts';

/** A request that waits for its outcome. */
export interface Waiter<T> extends OpenRequest<T> {
  /** Ends the wait; it holds on to the request until it is cancelled. */
  deadline?: HeapTimer<OpenTimer<T>>;
  /** Until then roots and origin are asked again when none of them answers. */
  readonly patientUntilMs: number;
}

/**
 * One blob by one source.
 *
 *     asking --open--> shared        a root knows it: size, key, whether it is public
 *       |  \--no-way, all silent--> alone     only the client's own way; size from its GET
 *       |  \--nobody answers, public yesterday--> shared      by the kept verdict
 *       \---refused--> (gone)        a definite no for requests that show nothing of their own
 */
export interface Entry<T> {
  readonly id: string;
  readonly digest: Digest;
  readonly origin: BlobOrigin;
  phase: 'asking' | 'shared' | 'alone';
  blob: BlobRef | undefined;
  /** Anybody may read the blob until then; 0 when it is not public. */
  publicUntilMs: number;
  /** Opened by a kept verdict, which counts only while neither a root nor the origin answers. */
  isKept: boolean;
  untilMs: number;
  usedMs: number;
  /** Roots of this round that were asked, and those that have not answered yet, by attempt. */
  readonly asked: SmallSet<PeerId>;
  readonly asking: SmallMap<number, PeerId>;
  /** What roots are asked with in this round: the right of the request that began it. */
  right: RightKey;
  /** The refusal of a root, for requests that show nothing of their own. */
  refusal: OpenRefusal | undefined;
  probesItself: boolean;
  /** They are asked again soon. */
  retries: boolean;
  /** Trees that this host is in for it. */
  stripes: number;
  readonly rights: OpenRights;
  readonly waiting: SmallSet<Waiter<T>>;
}

/** What is due for an entry at a time. */
export type OpenTimer<T> =
  | { readonly type: 'next-root' | 'kept-way' | 'retry'; readonly entry: Entry<T> }
  | { readonly type: 'own-way'; readonly entry: Entry<T>; readonly after: 'lost' | 'slow' }
  | { readonly type: 'deadline'; readonly entry: Entry<T>; readonly waiter: Waiter<T> };

/** A question in flight to a root, or to the origin about a right. */
export type Attempt<T> =
  | { readonly kind: 'root'; readonly entry: Entry<T>; readonly root: PeerId }
  | { readonly kind: 'probe'; readonly entry: Entry<T>; readonly right: RightKey };

/** The answer to a request. */
export type Outcome = { readonly opened: OpenedBlob } | { readonly refusal: OpenRefusal };

/** A blob that nobody has been asked about yet. */
export function newEntry<T>(
  { digest, origin, right }: OpenRequest<T>,
  init: OpenBlobsInit,
  nowMs: number,
): Entry<T> {
  return {
    id: openBlobId({ digest, origin }),
    digest,
    origin,
    phase: 'asking',
    blob: undefined,
    publicUntilMs: 0,
    isKept: false,
    untilMs: 0,
    usedMs: nowMs,
    asked: new SmallSet(),
    asking: new SmallMap(),
    right,
    refusal: undefined,
    probesItself: false,
    retries: false,
    stripes: 0,
    rights: new OpenRights(init),
    waiting: new SmallSet(),
  };
}

/** Whether the registry has said no: what was public before is so no longer. */
export function isNo({ code }: OpenRefusal): boolean {
  return code === 'unauthorized' || code === 'denied' || code === 'not-found';
}

/** Whether roots found no way by a URL of a storage, and this right is another URL. */
export function isOtherUrl<T>({ phase, origin, right }: Entry<T>, url: RightKey): boolean {
  return phase === 'alone' && origin.repository === '' && right !== url;
}

/** Whether the same question may have another answer in a moment. */
export function isPassing({ code }: OpenRefusal): boolean {
  return code === 'unchecked' || code === 'undecided' || code === 'rate-limited';
}
