import type { BlockStore } from '../../blockstore/store.ts';
import { isWhole } from '../../image/attestation.ts';
import type { AttestedBlock } from '../../image/attested-block.ts';
import type { BlockDigests } from '../../image/block-digests.ts';
import { blockCount, type BlobOrigin, type BlobRef, type BlockIndex } from '../../image/block.ts';
import { isOwnKey } from '../../image/blob-key.ts';
import type { Digest } from '../../image/digest.ts';
import { signNotice, type SignedClaim } from '../../image/signed-claim.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Hash, Signer } from '../../runtime/codec.ts';
import { within } from '../../runtime/deadline.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { Counter, Metrics } from '../../runtime/metrics.ts';
import type { HostAddress, WrongBlobReply, WrongBlobReport } from '../../tree/messages.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { errorText } from '../../util/errors.ts';
import type { PeerId } from '../../util/peer-id.ts';
import type { Caller, Handlers, TreeCalls } from '../contracts/calls.ts';
import type { Distrust } from '../contracts/distrust.ts';
import { OriginError, type BlobStat, type Origin } from '../contracts/origin.ts';
import type { Attestor } from './attestor.ts';
import { transferMetrics } from './metrics.ts';
import type { Suspicion } from './suspicion.ts';
import type { BlockVerifier } from './verifier.ts';
import { WholeBlobCheck } from './whole-blob-check.ts';
import { WholeReader } from './whole-reader.ts';
import { WrongReports } from './wrong-reports.ts';

/** Longest wait for the registry's word on the size of a blob that was found wrong. */
const STAT_MS_MAX = 20_000;

/** Blobs whose proofs are remembered. */
const BLOBS_MAX = 1024;

/** Pause between two kept blocks that are looked at, in milliseconds: a tenth of a core. */
const PAUSE_MS = 2;

interface Components {
  readonly store: BlockStore;
  readonly origin: Origin;
  readonly hash: Hash;
  readonly signer: Signer;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly transport: Caller<TreeCalls>;
  readonly distrust: Distrust;
  readonly suspicion: Suspicion;
  readonly verifier: BlockVerifier;
  readonly attestor: Attestor;
}

/** What the engine knows of blobs and roots. */
interface Surroundings {
  /** Of this host. */
  readonly self: PeerId;
  readonly isRoot: boolean;
  /** The roots that exist now. */
  readonly roots: () => readonly HostAddress[];
  readonly blobOf: (digest: Digest) => BlobRef | undefined;
  readonly originOf: (digest: Digest) => BlobOrigin | undefined;
  /** Drops all of the blob, in memory and in the store. */
  readonly drop: (digest: Digest) => Promise<void>;
  /** Drops the blob's blocks in memory. */
  readonly forget: (digest: Digest) => void;
}

/**
 * Blobs of which roots attested wrong blocks. From the first proof on this host distrusts such a
 * blob, also after restarts: it takes, keeps and serves only blocks with a `whole` claim. Proof is
 *
 * - a `whole` claim or a notice of a believed root, on a block, in a root's answer or in a report;
 * - on a root: its own hash of the complete blob;
 * - on a root that hashed the blob: a claim of a believed root for another block (a report).
 *
 * A host that is no root and finds a complete blob wrong suspects it, and reports it to the roots.
 * A root that distrusts a blob attests a block of it only after it has read the whole blob from the
 * registry and found its digest right. It tells the other roots, and hosts as they open the blob or
 * join its trees.
 *
 * Life: constructed -> `start()` once store and list are there -> used -> `stop()`.
 */
export class WrongContent {
  readonly #parts: Components;
  readonly #around: Surroundings;
  readonly #checks: WholeBlobCheck;
  readonly #whole: WholeReader;
  readonly #distrusted: Counter;
  /** Words of roots, to show to other roots; on a root its own. */
  readonly #proofs = new BoundedMap<Digest, SignedClaim>({ entriesMax: BLOBS_MAX });
  readonly #reports: WrongReports;
  /** Questions to registries that are in flight. */
  readonly #judging = new Set<Promise<void>>();
  readonly #stop = new AbortController();
  /** Drops weakly attested blocks, one blob after the other. */
  #sweeping: Promise<void> = Promise.resolve();

  constructor(components: Components, around: Surroundings) {
    this.#parts = components;
    this.#around = around;
    this.#distrusted = transferMetrics(components.metrics).distrusted;
    this.#whole = new WholeReader(components);
    this.#reports = new WrongReports(components, {
      ...around,
      onNotice: (digest, notice) => this.takeNotice(digest, notice),
    });
    this.#checks = new WholeBlobCheck(components, {
      onBad: (blob, claims) => this.#foundWrong(blob, claims),
    });
  }

  /** What a root is asked about wrong blobs. */
  get handlers(): Handlers<TreeCalls> {
    return { 'wrong-blob': async (peer, report) => this.#reported(peer, report) };
  }

  start(): void {
    for (const digest of this.#parts.distrust) this.#sweep(digest);
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    const parts = [this.#whole, this.#checks, this.#reports].map((part) => part.stop());
    await Promise.all([...parts, this.#sweeping, ...this.#judging]);
  }

  /** A block of the blob was stored: a complete blob is hashed, and held against its digest. */
  stored(blob: BlobRef, content: Digest): void {
    this.#checks.stored(blob, content);
  }

  /** Resolves once no check of the blob is due or in progress. */
  settled(digest: Digest): Promise<void> {
    return this.#checks.settled(digest);
  }

  /** A checked block carries a `whole` claim of a believed root. */
  sawWhole(digest: Digest, index: BlockIndex, { blockDigest, attestation }: AttestedBlock): void {
    const isKnown = this.#around.isRoot || this.#proofs.has(digest);
    if (isKnown && this.isDistrusted(digest)) return;
    if (blockDigest !== undefined) this.#believe(digest, { index, blockDigest, attestation });
  }

  /** A weak claim of a distrusted blob came: the roots that own the blob may not know of it. */
  sawWeak(blob: BlobRef): void {
    this.#reports.weak(blob, this.noticeOf(blob.digest));
  }

  /** Takes in a root's word, from any host; without effect unless a believed root signed it. */
  takeNotice(digest: Digest, notice: SignedClaim): void {
    if (this.#isWord(digest, notice)) this.#believe(digest, notice);
  }

  /** A root's word on a distrusted blob, on a root its own; undefined for others. */
  noticeOf(digest: Digest): SignedClaim | undefined {
    if (!this.isDistrusted(digest)) return undefined;
    const known = this.#proofs.get(digest);
    if (known !== undefined || !this.#around.isRoot) return known;
    const notice = signNotice(this.#parts, digest);
    this.#proofs.set(digest, notice);
    return notice;
  }

  isDistrusted(digest: Digest): boolean {
    return this.#parts.distrust.has(digest);
  }

  /**
   * Digests of the blob's blocks, if this root hashed all of it. Throws OriginError when it has
   * not hashed a distrusted blob; then it begins to.
   */
  digestsOf(blob: BlobRef, origin: BlobOrigin): BlockDigests | undefined {
    const digests = this.#whole.digestsOf(blob.digest);
    if (digests !== undefined || !this.isDistrusted(blob.digest)) return digests;
    this.#whole.want({ blob, origin });
    const text = `${blob.digest} was wrong once: nothing of it is attested before all is hashed`;
    throw new OriginError(text, { code: 'unavailable' });
  }

  /** Whether the claim is a believed root's word that the blob is distrusted. */
  #isWord(digest: Digest, claim: SignedClaim): boolean {
    return isWhole(claim.attestation) && this.#parts.verifier.checkClaim(digest, claim) === 'good';
  }

  #believe(digest: Digest, proof: SignedClaim): void {
    if (!this.#around.isRoot) this.#proofs.set(digest, proof);
    this.#distrust(digest, 'root');
  }

  async #foundWrong(blob: BlobRef, claims: readonly SignedClaim[]): Promise<void> {
    this.#noteWrong(blob, claims);
    await this.#around.drop(blob.digest);
  }

  #noteWrong(blob: BlobRef, claims: readonly SignedClaim[]): void {
    const origin = this.#around.originOf(blob.digest);
    if (origin !== undefined) this.#parts.origin.distrust?.(origin);
    this.#forget(blob.digest);
    // In quarantine only those who asked this source have it. They could fill the list with more.
    if (isOwnKey(blob.digest)) return;
    if (this.#around.isRoot) {
      const judging = this.#judge(blob, origin);
      this.#judging.add(judging);
      void judging.finally(() => this.#judging.delete(judging));
      return;
    }
    this.#parts.suspicion.suspect(blob.digest);
    this.#reports.found(blob, this.noticeOf(blob.digest), claims);
  }

  /** On a root: the blob is wrong, unless a host made this root take it for one of another size. */
  async #judge(blob: BlobRef, origin: BlobOrigin | undefined): Promise<void> {
    const isOther = origin !== undefined && (await this.#isOfOtherSize(blob, origin));
    if (isOther || this.#stop.signal.aborted) return;
    this.#distrustForAll(blob, 'content');
  }

  /** This root found out, and tells the other roots. */
  #distrustForAll(blob: BlobRef, cause: 'content' | 'report'): void {
    this.#distrust(blob.digest, cause);
    this.#reports.found(blob, this.noticeOf(blob.digest));
  }

  /** A registry that does not tell the size clears nothing. */
  async #isOfOtherSize(blob: BlobRef, origin: BlobOrigin): Promise<boolean> {
    const { clock, origin: registries, logger } = this.#parts;
    const { signal } = this.#stop;
    const stat = (limit: AbortSignal): Promise<BlobStat> =>
      registries.stat(blob.digest, origin, limit);
    try {
      const { sizeBytes } = await within(clock, STAT_MS_MAX, stat, { signal });
      if (sizeBytes === blob.sizeBytes) return false;
      const fields = { blob: blob.digest, sizeBytes, namedBytes: blob.sizeBytes };
      logger.warn(fields, 'a blob was wrong because a host named a wrong size of it');
      return true;
    } catch {
      return false;
    }
  }

  #distrust(digest: Digest, cause: 'content' | 'root' | 'report'): void {
    const { distrust, logger } = this.#parts;
    if (distrust.has(digest)) return;
    distrust.add(digest);
    this.#distrusted.inc({ cause });
    const text =
      'wrong blocks of a blob were attested: from now on this host takes only blocks of it ' +
      'that a root attested after hashing the whole blob';
    logger.error({ blob: digest, cause }, text);
    this.#forget(digest);
    this.#sweep(digest);
  }

  /** Of what is in memory nothing may be used. */
  #forget(digest: Digest): void {
    this.#parts.attestor.forget(digest);
    this.#around.forget(digest);
    this.#checks.forget(digest);
  }

  /** Drops the kept blocks of a distrusted blob that have no `whole` claim. */
  #sweep(digest: Digest): void {
    const blob = this.#parts.store.blobs().find((each) => each.digest === digest);
    if (blob === undefined) return;
    this.#sweeping = this.#sweeping
      .then(() => this.#dropWeak(blob))
      .catch((error: unknown) => {
        if (this.#stop.signal.aborted) return;
        const fields = { blob: digest, error: errorText(error) };
        this.#parts.logger.warn(fields, 'weakly attested blocks stay until they are read');
      });
  }

  async #dropWeak(blob: BlobRef): Promise<void> {
    const { store, verifier, clock } = this.#parts;
    for (const index of store.blocksOf(blob.digest)) {
      this.#stop.signal.throwIfAborted();
      const block = await store.get(blob, index);
      if (block === undefined) continue;
      const { verdict } = verifier.checkOwn(blob, index, block);
      block.payload.release();
      if (verdict !== 'good') await store.drop(blob.digest, index);
      await clock.sleep(PAUSE_MS, this.#stop.signal);
    }
  }

  /** On a root, or a relay, which reads no registry. A host's word alone changes nothing. */
  #reported(peer: PeerId, { digest, claims }: WrongBlobReport): WrongBlobReply {
    if (!this.isDistrusted(digest)) {
      const word = claims.find(({ attestation }) => isWhole(attestation));
      if (word !== undefined) this.takeNotice(digest, word);
      else if (this.#around.isRoot) this.#look(peer, digest, claims);
    }
    const notice = this.noticeOf(digest);
    return notice === undefined ? {} : { notice };
  }

  #look(by: PeerId, digest: Digest, claims: readonly SignedClaim[]): void {
    const blob = this.#around.blobOf(digest);
    const origin = this.#around.originOf(digest);
    // Size and origin are this root's own: the host's would make it read something else.
    if (blob === undefined || origin === undefined || isOwnKey(digest)) return;
    const digests = this.#whole.digestsOf(digest);
    if (digests !== undefined) this.#compare(blob, digests, claims);
    if (this.isDistrusted(digest)) return;
    this.#whole.check({
      blob,
      origin,
      by,
      onEnd: (isRight) => {
        const found = this.#whole.digestsOf(digest);
        if (!isRight) this.#noteWrong(blob, []);
        else if (found !== undefined) this.#compare(blob, found, claims);
      },
    });
  }

  /** The blob is right here: did a root attest another block of it? */
  #compare(blob: BlobRef, digests: BlockDigests, claims: readonly SignedClaim[]): void {
    for (const claim of claims) {
      const { index, blockDigest } = claim;
      if (index >= blockCount(blob.sizeBytes) || digests.matches(index, blockDigest)) continue;
      const verdict = this.#parts.verifier.checkClaim(blob.digest, claim);
      if (verdict === 'good') return this.#distrustForAll(blob, 'report');
      // One forged claim, and the report is worth no more of this root's time.
      if (verdict === 'bad') return;
    }
  }
}
