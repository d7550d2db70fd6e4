import { BLOB_SIZE_BYTES_MAX, stripeCount, type BlobRef } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { TransferError } from '../contracts/errors.ts';
import type { BlobState } from './core-types.ts';
import { SmallMap } from '../../util/small-map.ts';
import { SmallSet } from '../../util/small-set.ts';

/** Digest of no bytes: the only digest of a blob of size 0. */
const EMPTY = 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';

/**
 * The blobs that a host knows, with their sizes. A blob stays while something uses it (an opener, a
 * tree, a fetch); of unused blobs the least recently used go first. Numbers of forgotten blobs are
 * given again, so that they do not grow with the host's age.
 */
export class BlobTable<T> {
  readonly #blobsMax: number;
  readonly #onForget: (blob: BlobState<T>) => void;
  readonly #blobs = new Map<Digest, BlobState<T>>();
  /** Blobs that nothing uses. */
  readonly #idle: BoundedMap<Digest, BlobState<T>>;
  readonly #freeIds: number[] = [];

  /** `onForget`: nothing of the blob may be kept. */
  constructor(init: {
    readonly blobsMax: number;
    readonly idleMax: number;
    readonly onForget: (blob: BlobState<T>) => void;
  }) {
    this.#blobsMax = init.blobsMax;
    this.#onForget = init.onForget;
    this.#idle = new BoundedMap({
      entriesMax: Math.min(init.idleMax, init.blobsMax),
      evict: 'use',
      onEvict: (_, blob) => this.#forget(blob),
    });
  }

  get count(): number {
    return this.#blobs.size;
  }

  values(): Iterable<BlobState<T>> {
    return this.#blobs.values();
  }

  get(digest: Digest): BlobState<T> | undefined {
    return this.#blobs.get(digest);
  }

  /** Something looked at the blob, and does not keep it. */
  touch(blob: BlobState<T>): void {
    if (blob.uses === 0) this.#idle.get(blob.ref.digest);
  }

  /** Makes a blob known. Throws TransferError; then nothing has changed. */
  add(ref: BlobRef): BlobState<T> {
    checkSize(ref);
    const known = this.#blobs.get(ref.digest);
    if (known?.ref.sizeBytes === ref.sizeBytes) {
      this.touch(known);
      return known;
    }
    // A size that nobody vouched for, and that nothing uses, gives way.
    if (known !== undefined && (known.confirmed || known.uses > 0)) throw sizeDiffers(known, ref);
    const isFull = known === undefined && this.#blobs.size >= this.#blobsMax;
    const place = isFull ? this.#leastUsed(ref) : known;
    if (place !== undefined) this.#remove(place);
    return this.#insert(ref);
  }

  /**
   * Sets the size that counts from now on. It replaces another size; users of the blob learn of
   * that elsewhere. Throws TransferError.
   */
  confirm(ref: BlobRef): void {
    checkSize(ref);
    const known = this.#blobs.get(ref.digest);
    if (known === undefined || known.ref.sizeBytes === ref.sizeBytes) {
      this.add(ref).confirmed = true;
      return;
    }
    this.#remove(known);
    const blob = this.#insert(ref);
    blob.confirmed = true;
    for (let i = 0; i < known.uses; i++) this.hold(blob);
  }

  /** One more use of the blob; each ends with one `letGo()`. */
  hold(blob: BlobState<T>): void {
    if (blob.uses++ === 0) this.#idle.delete(blob.ref.digest);
  }

  letGo(blob: BlobState<T>): void {
    blob.uses--;
    const isKnown = this.#blobs.get(blob.ref.digest) === blob;
    if (blob.uses === 0 && isKnown) this.#idle.set(blob.ref.digest, blob);
  }

  #leastUsed(ref: BlobRef): BlobState<T> {
    for (const [, blob] of this.#idle) return blob;
    const text = `${this.#blobsMax} blobs are in use: ${ref.digest} has to wait`;
    throw new TransferError(text, { code: 'overloaded' });
  }

  #insert(ref: BlobRef): BlobState<T> {
    const stripes = stripeCount(ref.sizeBytes);
    const blob: BlobState<T> = {
      ref,
      id: this.#freeIds.pop() ?? this.#blobs.size,
      stripes,
      uses: 0,
      confirmed: false,
      ownWay: false,
      fetches: new SmallMap(),
      cachedKeys: new SmallSet(),
      ordered: new SmallSet(),
      ordersOf: new SmallMap(),
      touchedOnce: undefined,
      children: Array.from({ length: stripes }, () => new SmallSet()),
      untold: [],
    };
    this.#blobs.set(ref.digest, blob);
    this.#idle.set(ref.digest, blob);
    return blob;
  }

  #remove(blob: BlobState<T>): void {
    this.#idle.delete(blob.ref.digest);
    this.#forget(blob);
  }

  #forget(blob: BlobState<T>): void {
    this.#onForget(blob);
    this.#blobs.delete(blob.ref.digest);
    this.#freeIds.push(blob.id);
  }
}

/** Sizes come from peers, registries and files. */
function checkSize({ digest, sizeBytes }: BlobRef): void {
  const isSize = Number.isSafeInteger(sizeBytes) && sizeBytes >= 0;
  const isPossible =
    isSize && sizeBytes <= BLOB_SIZE_BYTES_MAX && (sizeBytes > 0 || digest === EMPTY);
  if (isPossible) return;
  throw new TransferError(`${digest} cannot have ${sizeBytes} bytes`, { code: 'range' });
}

function sizeDiffers({ ref }: BlobState<unknown>, asked: BlobRef): TransferError {
  return new TransferError(
    `blob ${ref.digest} has ${ref.sizeBytes} bytes here, not ${asked.sizeBytes}`,
    { code: 'size-differs', knownSizeBytes: ref.sizeBytes },
  );
}
