import type { AttestedBlock } from '../../src/image/attested-block.ts';
import type { Clock } from '../../src/runtime/clock.ts';
import type { Random } from '../../src/runtime/random.ts';
import {
  PeerError,
  type BlockRequest,
  type BlockServer,
  type PendingBlock,
  type Transport,
} from '../../src/transfer/contracts/transport.ts';
import type { Handlers, TreeCalls } from '../../src/transfer/contracts/calls.ts';
import type { HostAddress, TouchOrder } from '../../src/tree/messages.ts';
import { PooledBytes } from '../../src/util/buffer-pool.ts';
import type { PeerId } from '../../src/util/peer-id.ts';
import type { FaultReport } from './fault-report.ts';

type FaultKind = 'drop' | 'delay' | 'duplicate' | 'truncate' | 'corrupt';

/** Share of the messages that each fault hits, 0 to 1 each; at most one fault per message. */
export interface TransportFaultRates {
  readonly drop: number;
  readonly delay: number;
  readonly duplicate: number;
  /** For answers with blocks only. */
  readonly truncate: number;
  readonly corrupt: number;
}

export const TRANSPORT_FAULTS: TransportFaultRates = {
  drop: 0.03,
  delay: 0.08,
  duplicate: 0.05,
  truncate: 0.03,
  corrupt: 0.03,
};

/**
 * Longest delay of a message: longer than the silence allowed to a peer, and than the first hedges
 * wait.
 */
const DELAY_MS_MAX = 1_500;

/**
 * A transport that fails by seed, around a real transport.
 *
 * Fault model: an answer may be lost, be late, be truncated, or arrive with a bit changed in the
 * payload or in the attestation. A request, a tree call, an order and an ALIVE may be sent twice,
 * be lost or be late. A lost tree call rejects when its caller gives it up. Without `rates` nothing
 * fails.
 */
export class FaultyTransport implements Transport {
  readonly #inner: Transport;
  readonly #random: Random;
  readonly #clock: Clock;
  readonly #report: FaultReport;
  rates: TransportFaultRates | undefined;

  constructor(components: {
    transport: Transport;
    random: Random;
    clock: Clock;
    report: FaultReport;
  }) {
    this.#inner = components.transport;
    this.#random = components.random;
    this.#clock = components.clock;
    this.#report = components.report;
  }

  get self(): PeerId {
    return this.#inner.self;
  }

  serve(servers: { block: BlockServer; calls?: Handlers<TreeCalls> }): void {
    this.#inner.serve(servers);
  }

  start(): Promise<void> {
    return this.#inner.start();
  }

  stop(): Promise<void> {
    return this.#inner.stop();
  }

  addresses(): readonly string[] {
    return this.#inner.addresses();
  }

  requestBlock(host: HostAddress, request: BlockRequest): PendingBlock {
    const fault = this.#draw(['drop', 'delay', 'duplicate', 'truncate', 'corrupt']);
    const real = this.#inner.requestBlock(host, request);
    switch (fault) {
      case undefined:
        return real;
      case 'drop':
        return lost(real);
      case 'delay':
        return this.#changed(real, async (block) => {
          await this.#clock.sleep(this.#random.below(DELAY_MS_MAX));
          return block;
        });
      case 'duplicate':
        return both(real, this.#inner.requestBlock(host, request));
      case 'truncate':
        return this.#changed(real, (block) => {
          const { bytes } = block.payload;
          return withPayload(block, bytes.slice(0, this.#random.below(bytes.length)));
        });
      case 'corrupt':
        return this.#changed(real, (block) => this.#corrupt(block));
    }
  }

  sendOrder(peer: PeerId, order: TouchOrder): void {
    this.#send(() => this.#inner.sendOrder(peer, order));
  }

  sendAlive(peer: PeerId): void {
    this.#send(() => this.#inner.sendAlive(peer));
  }

  async call<K extends keyof TreeCalls>(
    host: HostAddress,
    name: K,
    request: TreeCalls[K][0],
    signal: AbortSignal,
  ): Promise<TreeCalls[K][1]> {
    const call = () => this.#inner.call(host, name, request, signal);
    const fault = this.#draw(['drop', 'delay', 'duplicate']);
    if (fault === 'drop') {
      // The root receives the call; its answer is lost.
      call().catch(() => {});
      await aborted(signal);
      throw new PeerError('a call was lost on purpose', { code: 'timeout' });
    }
    if (fault === 'delay') await this.#clock.sleep(this.#random.below(DELAY_MS_MAX), signal);
    if (fault === 'duplicate') call().catch(() => {});
    return call();
  }

  #draw<K extends FaultKind>(kinds: readonly K[]): K | undefined {
    if (this.rates === undefined) return undefined;
    let toss = this.#random.float();
    for (const kind of kinds) {
      toss -= this.rates[kind];
      if (toss >= 0) continue;
      this.#report.add('injected', `network: ${kind}`);
      return kind;
    }
    return undefined;
  }

  #send(send: () => void): void {
    const fault = this.#draw(['drop', 'delay', 'duplicate']);
    if (fault === 'drop') return;
    if (fault === 'delay') {
      this.#clock.setTimer(this.#random.below(DELAY_MS_MAX), send);
      return;
    }
    send();
    if (fault === 'duplicate') send();
  }

  /**
   * The answer with a fault applied. A caller that gave up meanwhile gets `cancelled`, as from the
   * real transport.
   */
  #changed(
    real: PendingBlock,
    change: (block: AttestedBlock) => AttestedBlock | Promise<AttestedBlock>,
  ): PendingBlock {
    let cancelled = false;
    const answer = real.answer.then(async (block) => {
      const other = await change(block);
      if (!cancelled) return other;
      other.payload.release();
      throw cancelledError();
    });
    return {
      answer,
      promote: () => real.promote(),
      cancel: () => {
        cancelled = true;
        real.cancel();
      },
    };
  }

  #corrupt(block: AttestedBlock): AttestedBlock {
    const inAttestation = this.#random.below(4) === 0;
    const bytes = block.payload.bytes.slice();
    const signature = block.attestation.signature.slice();
    const target = inAttestation ? signature : bytes;
    const at = this.#random.below(target.length);
    target.set([(target[at] ?? 0) ^ (1 << this.#random.below(8))], at);
    const attestation = { ...block.attestation, signature };
    return { ...withPayload(block, bytes), attestation };
  }
}

/** The answer with another payload; releases the payload that it had. */
function withPayload(block: AttestedBlock, bytes: Uint8Array): AttestedBlock {
  block.payload.release();
  return { payload: PooledBytes.unpooled(bytes), attestation: block.attestation };
}

/** A request that never gets an answer. */
function lost(real: PendingBlock): PendingBlock {
  discard(real);
  const { promise, reject } = Promise.withResolvers<AttestedBlock>();
  return {
    answer: promise,
    promote: () => real.promote(),
    cancel: () => {
      real.cancel();
      reject(cancelledError());
    },
  };
}

/** A request sent twice; the answer to the first counts. */
function both(real: PendingBlock, again: PendingBlock): PendingBlock {
  discard(again);
  return {
    answer: real.answer,
    promote: () => {
      real.promote();
      again.promote();
    },
    cancel: () => {
      real.cancel();
      again.cancel();
    },
  };
}

function discard(pending: PendingBlock): void {
  pending.answer.then(
    ({ payload }) => payload.release(),
    () => {},
  );
}

function cancelledError(): PeerError {
  return new PeerError('the answer is no longer wanted', { code: 'cancelled' });
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
