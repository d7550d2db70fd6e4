import { stripeCount, type BlobRef } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { SignedClaim } from '../../image/signed-claim.ts';
import type { Clock } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { HostAddress, WrongBlobReport } from '../../tree/messages.ts';
import { RootRing } from '../../tree/rendezvous.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { errorText } from '../../util/errors.ts';
import type { PeerId } from '../../util/peer-id.ts';
import type { Caller, TreeCalls } from '../contracts/calls.ts';

/** Roots are told again about a blob after this long, if they still send weak claims of it. */
const REPORT_INTERVAL_MS = 60_000;

/** Longest wait for a root's answer to a report, which it gives from memory. */
const REPORT_MS_MAX = 5_000;

/** Blobs whose last report is remembered. */
const BLOBS_MAX = 1024;

/** Blobs that this host found wrong of which it remembers the claims: 5 MB. */
const CLAIMS_BLOBS_MAX = 16;

interface Init {
  /** Of this host. */
  readonly self: PeerId;
  /** The roots that exist now. */
  readonly roots: () => readonly HostAddress[];
  /** A root answered with its word, not yet checked. */
  readonly onNotice: (digest: Digest, notice: SignedClaim) => void;
}

/**
 * Tells roots that a blob is wrong. A root's word goes to all of them, since each may own the blob
 * once another root is gone. Without one, the owners are told first, and without claims: many hosts
 * may find the same at once, and roots rarely need more. Later all roots get the claims.
 *
 * Life: constructed -> used -> `stop()`: calls in flight end.
 */
export class WrongReports {
  readonly #parts: {
    readonly transport: Caller<TreeCalls>;
    readonly clock: Clock;
    readonly logger: Logger;
  };
  readonly #init: Init;
  /** What roots said of the blocks of a blob that this host found wrong. */
  readonly #claims = new BoundedMap<Digest, readonly SignedClaim[]>({
    entriesMax: CLAIMS_BLOBS_MAX,
  });
  readonly #reportedMs = new BoundedMap<Digest, number>({ entriesMax: BLOBS_MAX });
  readonly #calls = new Set<Promise<void>>();
  readonly #stop = new AbortController();

  constructor(
    components: {
      readonly transport: Caller<TreeCalls>;
      readonly clock: Clock;
      readonly logger: Logger;
    },
    init: Init,
  ) {
    this.#parts = components;
    this.#init = init;
  }

  /**
   * This host found the blob wrong, and reports it at once. `proof`: a root's word. `claims`: what
   * roots said of its blocks, for a later report.
   */
  found(blob: BlobRef, proof: SignedClaim | undefined, claims: readonly SignedClaim[] = []): void {
    if (proof !== undefined) return this.#report(blob, [proof], this.#others());
    this.#claims.set(blob.digest, claims);
    this.#report(blob, [], this.#ownersOf(blob));
  }

  /** Somebody still sends weak claims of the blob: a report, unless there was one recently. */
  weak(blob: BlobRef, proof: SignedClaim | undefined): void {
    const lastMs = this.#reportedMs.get(blob.digest) ?? Number.NEGATIVE_INFINITY;
    if (this.#parts.clock.nowMs() < lastMs + REPORT_INTERVAL_MS) return;
    const claims = proof === undefined ? (this.#claims.get(blob.digest) ?? []) : [proof];
    this.#report(blob, claims, this.#others());
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#calls);
  }

  #report(blob: BlobRef, claims: readonly SignedClaim[], roots: readonly HostAddress[]): void {
    if (this.#stop.signal.aborted) return;
    this.#reportedMs.set(blob.digest, this.#parts.clock.nowMs());
    for (const root of roots) {
      const call = this.#tell(root, { digest: blob.digest, claims });
      this.#calls.add(call);
      void call.finally(() => this.#calls.delete(call));
    }
  }

  #others(): readonly HostAddress[] {
    return this.#init.roots().filter(({ peer }) => peer !== this.#init.self);
  }

  #ownersOf({ digest, sizeBytes }: BlobRef): readonly HostAddress[] {
    const roots = this.#init.roots();
    const ring = new RootRing(roots.map(({ peer }) => peer));
    const owners = new Set<PeerId | undefined>();
    for (let stripe = 0; stripe < stripeCount(sizeBytes); stripe++) {
      owners.add(ring.order(digest, stripe)[0]);
    }
    return this.#others().filter(({ peer }) => owners.has(peer));
  }

  async #tell(root: HostAddress, report: WrongBlobReport): Promise<void> {
    const { clock, transport, logger } = this.#parts;
    try {
      const { notice } = await within(
        clock,
        REPORT_MS_MAX,
        (signal) => transport.call(root, 'wrong-blob', report, signal),
        { signal: this.#stop.signal },
      );
      if (notice !== undefined) this.#init.onNotice(report.digest, notice);
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      const fields = { blob: report.digest, root: root.peer, error: errorText(error) };
      logger.warn(fields, 'a root was not told of a wrong blob');
    }
  }
}
