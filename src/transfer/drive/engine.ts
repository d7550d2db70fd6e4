import type { BlockStore } from '../../blockstore/store.ts';
import { NO_ATTESTATION } from '../../image/attestation.ts';
import type { AttestedBlock } from '../../image/attested-block.ts';
import type { BlockDigests } from '../../image/block-digests.ts';
import { blockLength, type BlobRef, type BlockIndex } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { Clock, Timer } from '../../runtime/clock.ts';
import type { Hash, Signer } from '../../runtime/codec.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { Metrics } from '../../runtime/metrics.ts';
import type { Random } from '../../runtime/random.ts';
import type { TouchOrder } from '../../tree/messages.ts';
import { unreachable } from '../../util/assert.ts';
import type { BufferPool } from '../../util/buffer-pool.ts';
import { CodedError, errorText } from '../../util/errors.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { Attestor } from './attestor.ts';
import type { BlobReader, ReadOptions } from '../contracts/blob-reader.ts';
import type { Distrust } from '../contracts/distrust.ts';
import { type AttemptId, type BlockSource } from '../core/effects.ts';
import {
  HostCore,
  type HostCoreInit,
  type HostEffect,
  type TreeSeat,
  type Upstreams,
} from '../host/host-core.ts';
import { LastFailures } from './last-failures.ts';
import { failRead, LocalReads, readError } from './local-reads.ts';
import { HeldTime, transferMetrics, type TransferMetrics } from './metrics.ts';
import type { Origin } from '../contracts/origin.ts';
import { cachedRange, checkRange, readByBlocks } from '../read/ranges.ts';
import {
  PeerError,
  type BlockServer,
  type IncomingBlockRequest,
  type PeerErrorDetail,
  type PendingBlock,
  type Transport,
} from '../contracts/transport.ts';
import { OriginReader } from './origin-reader.ts';
import { asLocal, asPeer, type ReadToken } from './read-token.ts';
import { Suspicion } from './suspicion.ts';
import { TreeDriver } from './tree-driver.ts';
import { BlockVerifier } from './verifier.ts';
import { WrongContent } from './wrong-content.ts';

/** Parts of a `TransferEngine`. */
export interface EngineComponents {
  readonly transport: Transport;
  readonly store: BlockStore;
  readonly origin: Origin;
  readonly distrust: Distrust;
  readonly hash: Hash;
  readonly signer: Signer;
  readonly clock: Clock;
  readonly random: Random;
  readonly pool: BufferPool;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/** Settings of a `TransferEngine`. */
export interface EngineInit extends HostCoreInit {
  /** Ed25519 public keys of the roots, whose attestations are believed. */
  readonly rootKeys: readonly Uint8Array[];
}

/**
 * Carries out the effects of `HostCore`: asks, verifies, stores, answers. Holds no policy itself.
 *
 * Life: constructed -> `start()` once the transport serves -> used -> `stop()`: pending reads are
 * rejected, every payload is released.
 */
export class TransferEngine implements BlobReader {
  readonly #parts: EngineComponents;
  /** Knows the believed roots. */
  readonly verifier: BlockVerifier;
  readonly #attestor: Attestor;
  /** Blobs of which wrong blocks were attested. */
  readonly wrong: WrongContent;
  readonly #origin: OriginReader;
  readonly #core: HostCore<AttestedBlock, ReadToken>;
  readonly #metrics: TransferMetrics;
  readonly #heldTime: HeldTime;
  readonly #reads = new LocalReads({
    start: (read) => this.#run((nowMs) => this.#core.blocks.read(read, nowMs)),
    cancel: (token) => this.#run((nowMs) => this.#core.blocks.cancel(token, nowMs)),
  });
  readonly #pending = new Map<AttemptId, PendingBlock>();
  readonly #failures: LastFailures;
  readonly #tree: TreeDriver<AttestedBlock, ReadToken>;
  #wake: { timer: Timer; atMs: number } | undefined;
  #running = false;
  #stopped = false;

  constructor(components: EngineComponents, init: EngineInit) {
    this.#parts = components;
    this.#metrics = transferMetrics(components.metrics);
    this.#heldTime = new HeldTime(this.#metrics);
    this.#failures = new LastFailures(components);
    const { store, random, signer } = components;
    const own = signer.publicKey;
    const suspicion = new Suspicion(components);
    const { hash } = components;
    const { rootKeys } = init;
    this.verifier = new BlockVerifier({ hash, distrust: suspicion }, { own, rootKeys });
    this.#attestor = new Attestor(components);
    this.#core = new HostCore<AttestedBlock, ReadToken>(
      {
        ops: {
          length: (block) => block.payload.length,
          retain: (block) => {
            block.payload.retain();
          },
          release: (block) => block.payload.release(),
        },
        random,
        held: (digest, index) => store.has(digest, index),
        blocksOf: (digest) => store.blocksOf(digest),
        isDistrusted: (digest) => suspicion.has(digest),
        sourceKey: (digest) => this.#tree.sourceKey(digest),
      },
      init,
    );
    this.#tree = new TreeDriver(components, {
      core: this.#core,
      role: init.role,
      upstreams: init,
      run: (change) => this.#run(change),
      notices: {
        noticeOf: (digest) => this.wrong.noticeOf(digest),
        takeNotice: (digest, notice) => this.wrong.takeNotice(digest, notice),
      },
    });
    const { origins } = this.#tree;
    const verifiers = { attestor: this.#attestor, verifier: this.verifier, suspicion };
    const parts = { ...components, ...verifiers };
    this.wrong = new WrongContent(parts, {
      self: init.self.peer,
      isRoot: init.role === 'root',
      roots: () => this.#tree.roots,
      blobOf: (digest) => this.#core.blocks.blob(digest),
      originOf: (digest) => origins.of(digest),
      drop: (digest) => this.drop(digest),
      forget: (digest) => this.#core.blocks.forget(digest),
    });
    this.#origin = new OriginReader(
      { ...parts, wrong: this.wrong },
      {
        origins,
        onProgress: (attempts) => this.#run((now) => this.#core.blocks.progressed(attempts, now)),
        onBlock: (...came) => this.#run((now) => this.#core.blocks.received(...came, now)),
        onError: (digest, text) => this.#failures.note(digest, 'the registry', text),
        onFailed: (...failed) => this.#run((now) => this.#core.blocks.failed(...failed, now)),
      },
    );
  }

  /** Joins trees and resolves images, for this host and (on a root) for peers. */
  get tree(): TreeDriver<AttestedBlock, ReadToken> {
    return this.#tree;
  }

  /** The roots that exist now, the relays, and the keys of all believed roots. */
  setUpstreams(upstreams: Upstreams, rootKeys: readonly Uint8Array[]): void {
    this.verifier.trust(rootKeys);
    this.#tree.setUpstreams(upstreams);
    this.#run((nowMs) => this.#core.rootsChanged(upstreams, nowMs));
  }

  /**
   * The registry's word for the size of a blob: drops blocks of another size in memory and in the
   * store, and refuses hosts that go on naming it.
   */
  async confirm(blob: BlobRef): Promise<void> {
    this.#run((nowMs) => this.#core.confirm(blob, nowMs));
    await this.#parts.store.resize(blob);
  }

  /** Drops the blob's blocks in memory and in the store. Rejects with BlockStoreError. */
  async drop(key: Digest): Promise<void> {
    const { store } = this.#parts;
    this.#core.blocks.forget(key);
    this.#attestor.forget(key);
    for (const index of store.blocksOf(key)) await store.drop(key, index);
  }

  /** From here on the blocks of the blob have these digests, whatever a root attests. */
  addDigests(blob: BlobRef, digests: BlockDigests): void {
    // Blocks in memory were taken on a root's word; blocks in the store are checked when read.
    if (this.verifier.addDigests(blob, digests)) this.#core.blocks.forget(blob.digest);
  }

  /** The touch order of a blob, as an image's trace says: missing blocks are prefetched. */
  order(order: TouchOrder): void {
    this.#run((nowMs) => this.#core.blocks.order(order, nowMs));
  }

  /** What the transport calls when peers ask for blocks. */
  get blockServer(): BlockServer {
    return {
      onRequest: (incoming) =>
        this.#run((nowMs) =>
          this.#core.blocks.readForPeer(incoming, incoming.peer, incoming.request, nowMs),
        ),
      onPromote: (incoming) => this.#run((nowMs) => this.#core.blocks.promote(incoming, nowMs)),
      onCancel: (incoming) =>
        this.#run((nowMs) => this.#core.blocks.cancelForPeer(incoming, incoming.peer, nowMs)),
      onOrder: (peer, order) => this.#run((nowMs) => this.#core.orderFrom(peer, order, nowMs)),
      onAlive: (peer) => this.#run((nowMs) => this.#core.blocks.alive(peer, nowMs)),
      onSilent: (peer) => this.#tree.silent(peer),
      onPeerGone: (peer) => this.#run((nowMs) => this.#core.peerGone(peer, nowMs)),
    };
  }

  /** Trees that this host takes part in, with the peers that read from it in each. */
  trees(): readonly (TreeSeat & { readonly children: readonly PeerId[] })[] {
    return this.#core.trees().map((seat) => ({
      ...seat,
      children: this.#core.blocks.childrenOf(seat.digest, seat.stripe),
    }));
  }

  /** Demand reads of this host that failed since the start. */
  get failedReads(): number {
    return this.#metrics.failed.total;
  }

  /** Bytes by source since the start. */
  bytesBySource(): Readonly<Partial<Record<BlockSource, number>>> {
    return this.#metrics.blockBytes.sums();
  }

  start(): void {
    this.#stopped = false;
    this.#reads.start();
    this.wrong.start();
    this.#run((nowMs) => this.#core.tick(nowMs));
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#wake?.timer.cancel();
    await this.#tree.stop();
    this.#reads.stop();
    for (const pending of this.#pending.values()) pending.cancel();
    this.#origin.stop();
    this.#attestor.stop();
    await this.wrong.stop();
    this.#core.blocks.clearCache();
  }

  async read(
    blob: BlobRef,
    offset: number,
    length: number,
    options: ReadOptions,
  ): Promise<Uint8Array> {
    checkRange(blob, offset, length);
    if (length > 0) this.#core.blocks.addBlob(blob);
    return readByBlocks({ offset, length }, async (index, use) => {
      const block = await this.#reads.read(blob, index, options);
      try {
        use(block.payload.bytes);
      } finally {
        block.payload.release();
      }
    });
  }

  /**
   * Brings a block into the store, unless it is there; hands its bytes to nobody. Rejects with
   * TransferError, and with BlockStoreError when the store did not keep it.
   */
  async keep(blob: BlobRef, index: BlockIndex, options: ReadOptions): Promise<void> {
    const { store } = this.#parts;
    if (store.has(blob.digest, index)) return;
    this.#core.blocks.addBlob(blob);
    const block = await this.#reads.read(blob, index, options);
    try {
      // Read from the registry as a last resort for this host alone: nobody vouches for it.
      if (block.attestation === NO_ATTESTATION) {
        throw readError(blob.digest, index, { code: 'cancelled' });
      }
      // Joins the write that the arrival of the block began.
      await store.put(blob, index, block);
    } finally {
      block.payload.release();
    }
  }

  readCached(blob: BlobRef, offset: number, length: number): Uint8Array | undefined {
    const peek = (index: BlockIndex) => this.#peek(blob, index)?.payload.bytes;
    const bytes = cachedRange(blob, { offset, length }, peek);
    if (bytes !== undefined && length > 0) this.#count('memory', 'demand', length);
    return bytes;
  }

  /** The block in memory, if it has the right length; else `read()` says what is wrong. */
  #peek(blob: BlobRef, index: BlockIndex): AttestedBlock | undefined {
    const block = this.#core.blocks.peek(blob.digest, index);
    if (block !== undefined && this.#core.blocks.isOwnWay(blob.digest)) {
      this.#run((nowMs) => this.#core.blocks.touched(blob.digest, index, nowMs));
    }
    const isWhole = block?.payload.length === blockLength(blob.sizeBytes, index);
    return isWhole ? block : undefined;
  }

  /** Calls the reducer and carries out its effects, also the effects that those bring about. */
  #run(change: (nowMs: number) => void): void {
    change(this.#parts.clock.nowMs());
    if (this.#running) return;
    this.#running = true;
    try {
      for (let effects = this.#core.take(); effects.length > 0; effects = this.#core.take()) {
        for (const effect of effects) this.#carryOut(effect);
      }
    } finally {
      this.#running = false;
    }
    this.#metrics.waiting.set({}, this.#core.blocks.waitingCount);
    this.#heldTime.note(this.#core.blocks.heldMs);
    this.#setWake();
  }

  #setWake(): void {
    const atMs = this.#core.nextWakeMs;
    if (this.#stopped || atMs === undefined || atMs === this.#wake?.atMs) return;
    this.#wake?.timer.cancel();
    const delayMs = Math.max(0, atMs - this.#parts.clock.nowMs());
    const timer = this.#parts.clock.setTimer(delayMs, () => {
      this.#wake = undefined;
      this.#run((nowMs) => this.#core.tick(nowMs));
    });
    this.#wake = { timer, atMs };
  }

  #carryOut(effect: HostEffect<AttestedBlock, ReadToken>): void {
    const { transport } = this.#parts;
    switch (effect.type) {
      case 'answer':
        if (effect.source === 'memory' || effect.source === 'disk') {
          this.#count(effect.source, 'demand', effect.block.payload.length);
        }
        return asLocal(effect.token).resolve(effect.block);
      case 'fail':
        // A prefetch that fails is no harm yet: a later demand read fetches it.
        if (asLocal(effect.token).kind === 'demand') {
          this.#metrics.failed.inc({ code: effect.detail.code });
        }
        return failRead(asLocal(effect.token), effect.detail, this.#failures);
      case 'send':
        return this.#send(asPeer(effect.token), effect.peer, effect.block);
      case 'refuse':
        return asPeer(effect.token).fail(effect.detail);
      case 'disk-read':
        return this.#diskRead(effect.blob, effect.index);
      case 'disk-write':
        return this.#diskWrite(effect.blob, effect.index, effect.block);
      case 'ask':
        return this.#await(effect, transport.requestBlock(effect.host, effect.request));
      case 'ask-origin':
        return this.#origin.ask(effect);
      case 'promote':
        this.#origin.promote(effect.attempt);
        return this.#pending.get(effect.attempt)?.promote();
      case 'cancel':
        this.#origin.cancel(effect.attempt);
        return this.#pending.get(effect.attempt)?.cancel();
      case 'verify':
        return this.#verify(effect.attempt, effect.blob, effect.index, effect.block);
      case 'fetched':
        if (effect.source === 'disk') return;
        return this.#count(effect.source, effect.kind, effect.lengthBytes);
      case 'alive':
        return transport.sendAlive(effect.peer);
      case 'lost':
        this.#metrics.lost.inc({ reason: effect.reason });
        if (effect.reason === 'silent') this.#tree.askRoots.silent(effect.peer);
        return this.#parts.logger.warn({ peer: effect.peer, reason: effect.reason }, 'peer lost');
      case 'forgot':
        this.verifier.forget(effect.digest);
        return this.#tree.forget(effect.digest);
      case 'order':
        return transport.sendOrder(effect.peer, effect.order);
      case 'tree':
        return this.#tree.carryOut(effect.effect);
      default:
        return unreachable(effect);
    }
  }

  #count(source: BlockSource, kind: 'demand' | 'prefetch', lengthBytes: number): void {
    this.#metrics.blockBytes.inc({ source, kind }, lengthBytes);
  }

  #send(incoming: IncomingBlockRequest, peer: PeerId, block: AttestedBlock): void {
    const { digest, index } = incoming.request;
    const attestation = this.#attestor.latest(digest, index, block) ?? block.attestation;
    const done = (): void => {
      block.payload.release();
      this.#run((nowMs) => this.#core.blocks.sent(incoming, peer, nowMs));
    };
    if (!this.verifier.mayPassOn(digest, index, block)) {
      incoming.fail({ code: 'not-found' });
      queueMicrotask(done);
      return;
    }
    void incoming.answer({ payload: block.payload, attestation }).finally(() => {
      this.#metrics.sentBytes.inc({}, block.payload.length);
      done();
    });
  }

  #await(
    { attempt, host, request }: Extract<HostEffect<unknown, unknown>, { type: 'ask' }>,
    pending: PendingBlock,
  ): void {
    this.#pending.set(attempt, pending);
    pending.answer.then(
      (block) => {
        this.#pending.delete(attempt);
        this.#tree.askRoots.health.heard(host.peer);
        this.#run((nowMs) => this.#core.blocks.received(attempt, block, nowMs));
      },
      (error: unknown) => {
        this.#pending.delete(attempt);
        const detail: PeerErrorDetail =
          error instanceof PeerError ? error.detail : { code: 'unreachable' };
        if (detail.code !== 'cancelled') {
          this.#failures.note(request.digest, `host ${host.peer}`, detail.code);
        }
        this.#run((nowMs) => this.#core.blocks.failed(attempt, detail, nowMs));
      },
    );
  }

  #verify(attempt: AttemptId, blob: BlobRef, index: BlockIndex, received: AttestedBlock): void {
    const isOwn = this.#origin.isOwn(received);
    const { verdict, block, isWhole } = isOwn
      ? this.verifier.checkOwn(blob, index, received)
      : this.verifier.check(blob, index, received);
    if (isWhole === true) this.wrong.sawWhole(blob.digest, index, block);
    if (verdict !== 'good') {
      this.#metrics.rejected.inc({ reason: verdict });
      this.#parts.logger.warn({ blob: blob.digest, block: index, verdict }, 'block refused');
      if (isOwn && verdict === 'bad') this.#tree.distrustOrigin(blob.digest);
      if (!isOwn && verdict === 'not-whole') this.wrong.sawWeak(blob);
    }
    this.#core.blocks.verified(attempt, verdict, this.#parts.clock.nowMs(), block);
  }

  #diskRead(blob: BlobRef, index: BlockIndex): void {
    const { store, logger } = this.#parts;
    const fields = { blob: blob.digest, block: index };
    const done = (block: AttestedBlock | undefined): void =>
      this.#run((nowMs) => this.#core.blocks.diskRead(blob.digest, index, block, nowMs));
    const read = async (): Promise<AttestedBlock | undefined> => {
      const block = await store.get(blob, index);
      if (block === undefined) return undefined;
      const { verdict, block: checked } = this.verifier.checkOwn(blob, index, block);
      if (verdict === 'good') return checked;
      block.payload.release();
      this.#metrics.rejected.inc({ reason: verdict });
      logger.warn({ ...fields, verdict }, 'block in the store is not to be used: dropped');
      await store.drop(blob.digest, index);
      return undefined;
    };
    read().then(done, (error: unknown) => {
      const why = { ...fields, error: errorText(error) };
      logger.warn(why, 'block could not be read from the store');
      done(undefined);
    });
  }

  #diskWrite(blob: BlobRef, index: BlockIndex, block: AttestedBlock): void {
    const content = this.#tree.contentOf(blob.digest);
    this.#parts.store
      .put(blob, index, block)
      .then(() => content !== undefined && this.wrong.stored(blob, content))
      .catch((error: unknown) => {
        const code = error instanceof CodedError ? error.code : 'unknown';
        this.#metrics.unstored.inc({ code });
        const fields = { blob: blob.digest, block: index, error: errorText(error) };
        this.#parts.logger.warn(fields, 'block passed on without being stored');
      })
      .finally(() => {
        const { length } = block.payload;
        block.payload.release();
        this.#run((nowMs) => this.#core.blocks.written(length, nowMs));
      })
      .catch(() => {});
  }
}
