import type { BlobOrigin, BlobRef } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { Clock } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import type { TransferEngine } from '../../transfer/drive/engine.ts';
import type { StatReply } from '../../tree/messages.ts';
import { orAbort } from '../../util/or-abort.ts';
import { SingleFlight } from '../../util/single-flight.ts';
import type { BlobAddress, BlobDirectory } from './contract.ts';

/** How long after its last use a blob that a local client opened stays in its trees: as long as the trees keep a silent host. */
const IDLE_MS_MAX = 20 * 60_000;

/** A blob that no root knew when it was opened is looked for in the trees again after this long. (tunable) */
const ALONE_MS_MAX = 60_000;

/** Longest that opening takes, whichever of its clients go away meanwhile; below the time that a read has. */
const OPEN_MS_MAX = 20_000;

interface Opened {
  readonly blob: BlobRef;
  /** Until when it is read without a tree; undefined when it has joined one. */
  readonly aloneUntilMs: number | undefined;
  usedMs: number;
}

interface Components {
  readonly tree: Pick<TransferEngine['tree'], 'open' | 'close' | 'learnOrigin'>;
  readonly stat: (digest: Digest, origin: BlobOrigin, signal: AbortSignal) => Promise<StatReply>;
  /** Size of a blob that only its client's own way leads to; see AccessCheck. */
  readonly sizeOf: (digest: Digest) => number | undefined;
  readonly clock: Clock;
}

/** Opens blobs for the clients of the local endpoint: finds their size once, joins their trees, leaves when they are idle. */
export class OpenBlobs implements BlobDirectory {
  readonly #parts: Components;
  readonly #opened = new Map<Digest, Opened>();
  readonly #opening = new SingleFlight<Digest, BlobRef>();

  constructor(components: Components) {
    this.#parts = components;
  }

  opened(digest: Digest): BlobRef | undefined {
    const opened = this.#opened.get(digest);
    if (opened === undefined) return undefined;
    opened.usedMs = this.#parts.clock.nowMs();
    return opened.blob;
  }

  async open(
    digest: Digest,
    address: BlobAddress,
    options: { readonly signal: AbortSignal },
  ): Promise<BlobRef> {
    const nowMs = this.#parts.clock.nowMs();
    this.#sweep(nowMs);
    const known = this.#opened.get(digest);
    if (known !== undefined && nowMs < (known.aloneUntilMs ?? Infinity)) {
      known.usedMs = nowMs;
      return known.blob;
    }
    this.#opened.delete(digest);
    const { registry, repository } = address;
    const open = (signal: AbortSignal): Promise<BlobRef> =>
      this.#open(digest, { registry, repository }, signal);
    return orAbort(
      this.#opening.run(digest, () => within(this.#parts.clock, OPEN_MS_MAX, open)),
      options.signal,
    );
  }

  async #open(digest: Digest, origin: BlobOrigin, signal: AbortSignal): Promise<BlobRef> {
    const { tree, stat, sizeOf, clock } = this.#parts;
    let sizeBytes: number | undefined;
    let aloneUntilMs: number | undefined;
    try {
      ({ sizeBytes } = await stat(digest, origin, signal));
    } catch (error) {
      signal.throwIfAborted();
      sizeBytes = sizeOf(digest);
      if (sizeBytes === undefined) throw error;
      // Nobody else can read it for this host: its client's own way is the only one.
      aloneUntilMs = clock.nowMs() + ALONE_MS_MAX;
    }
    const blob = { digest, sizeBytes };
    if (aloneUntilMs === undefined) await tree.open([{ blob, origin }], signal);
    else tree.learnOrigin(digest, origin);
    this.#opened.set(digest, { blob, aloneUntilMs, usedMs: clock.nowMs() });
    return blob;
  }

  #sweep(nowMs: number): void {
    for (const [digest, { usedMs, aloneUntilMs }] of this.#opened) {
      if (nowMs - usedMs < IDLE_MS_MAX) continue;
      this.#opened.delete(digest);
      if (aloneUntilMs === undefined) this.#parts.tree.close([digest]);
    }
  }
}
