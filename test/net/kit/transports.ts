import type { Clock } from '../../../src/runtime/clock.ts';
import { silentLogger, type Logger } from '../../../src/runtime/logger.ts';
import { type Counter, type Metrics, silentMetrics } from '../../../src/runtime/metrics.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { NodeMac } from '../../../src/runtime/node/mac.ts';
import { SystemRandom } from '../../../src/runtime/node/random.ts';
import { BLOCK_SIZE_BYTES, blockIndex } from '../../../src/image/block.ts';
import type { AttestedBlock } from '../../../src/image/attested-block.ts';
import { parseDigest, type Digest } from '../../../src/image/digest.ts';
import type {
  BlockRequest,
  BlockServer,
  IncomingBlockRequest,
} from '../../../src/transfer/contracts/transport.ts';
import type { HostAddress, TouchOrder } from '../../../src/tree/messages.ts';
import type { Handlers } from '../../../src/transfer/contracts/calls.ts';
import type { Calls } from '../../../src/net/calls/call-table.ts';
import { Libp2pTransport } from '../../../src/net/libp2p-transport.ts';
import { identity } from '../../kit/identity.ts';
import { defined } from '../../../src/util/assert.ts';
import { BufferPool, PooledBytes } from '../../../src/util/buffer-pool.ts';
import type { PeerId } from '../../../src/util/peer-id.ts';

export const DIGEST: Digest = defined(parseDigest(`sha256:${'ab'.repeat(32)}`), 'a digest');

/** Counters by `name{label=value,...}`. */
export class CountingMetrics implements Metrics {
  readonly values = new Map<string, number>();
  readonly #waiting = new Set<() => void>();

  /** Resolves when the count has come to the value. */
  async until(name: string, value: number): Promise<void> {
    while ((this.values.get(name) ?? 0) < value) {
      await new Promise<void>((resolve) => this.#waiting.add(resolve));
    }
  }

  counter(init: { name: string }): Counter {
    return {
      inc: (labels, value = 1) => {
        const text = Object.entries(labels).map(([key, label]) => `${key}=${label}`);
        const name = `${init.name}{${text.join(',')}}`;
        this.values.set(name, (this.values.get(name) ?? 0) + value);
        for (const resolve of this.#waiting) resolve();
        this.#waiting.clear();
      },
    };
  }

  gauge = silentMetrics.gauge;
  histogram = silentMetrics.histogram;
}

/** Keeps what it is asked, for the test to answer. */
class FakeServer implements BlockServer {
  readonly requests: IncomingBlockRequest[] = [];
  readonly promoted: IncomingBlockRequest[] = [];
  readonly cancelled: IncomingBlockRequest[] = [];
  readonly orders: TouchOrder[] = [];
  readonly gone: PeerId[] = [];
  readonly silent: PeerId[] = [];
  alive = 0;
  /** When set, answers instead of keeping. */
  handle: ((incoming: IncomingBlockRequest) => void) | undefined;
  readonly #waiting = new Set<() => void>();

  onRequest(incoming: IncomingBlockRequest): void {
    if (this.handle !== undefined) this.handle(incoming);
    else this.requests.push(incoming);
    this.#tell();
  }
  onPromote(incoming: IncomingBlockRequest): void {
    this.promoted.push(incoming);
    this.#tell();
  }
  onCancel(incoming: IncomingBlockRequest): void {
    this.cancelled.push(incoming);
    this.#tell();
  }
  onOrder(_peer: PeerId, order: TouchOrder): void {
    this.orders.push(order);
    this.#tell();
  }
  onAlive(): void {
    this.alive++;
    this.#tell();
  }
  onSilent(peer: PeerId): void {
    this.silent.push(peer);
    this.#tell();
  }
  onPeerGone(peer: PeerId): void {
    this.gone.push(peer);
    this.#tell();
  }

  /** Resolves when the condition holds; looked at whenever something is heard. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.#waiting.add(resolve));
  }

  #tell(): void {
    for (const resolve of this.#waiting) resolve();
    this.#waiting.clear();
  }
}

export interface Agent {
  readonly transport: Libp2pTransport;
  readonly server: FakeServer;
  readonly host: HostAddress;
  readonly pool: BufferPool;
  readonly metrics: CountingMetrics;
  stop(): Promise<void>;
}

const running = new Set<Agent>();

/** Secrets of the cluster that agents are in when nothing else is said. */
export const CLUSTER_KEYS: readonly Uint8Array[] = [new Uint8Array(32).fill(7)];

/** A started transport on a free loopback port. */
export async function startAgent(
  number: number,
  calls: Handlers<Calls> = {},
  init: { clusterKeys?: () => readonly Uint8Array[]; clock?: Clock; logger?: Logger } = {},
): Promise<Agent> {
  const server = new FakeServer();
  const metrics = new CountingMetrics();
  const pool = new BufferPool({ slabBytes: BLOCK_SIZE_BYTES, freeMax: 64, poison: true });
  const transport = new Libp2pTransport(
    {
      clock: init.clock ?? new SystemClock(),
      random: new SystemRandom(),
      logger: init.logger ?? silentLogger,
      metrics,
      mac: new NodeMac(),
      pool,
    },
    {
      identity: identity(number),
      listen: ['/ip4/127.0.0.1/tcp/0'],
      clusterKeys: init.clusterKeys ?? (() => CLUSTER_KEYS),
    },
  );
  transport.serve({ block: server, calls });
  await transport.start();
  const host = { peer: transport.self, addresses: transport.addresses() };
  const agent: Agent = {
    transport,
    server,
    host,
    pool,
    metrics,
    stop: async () => {
      running.delete(agent);
      await transport.stop();
    },
  };
  running.add(agent);
  return agent;
}

/** Stops what a test left running. */
export async function stopAgents(): Promise<void> {
  await Promise.all([...running].map((agent) => agent.stop()));
}

export function blockRequest(changes: Partial<BlockRequest> = {}): BlockRequest {
  return {
    digest: DIGEST,
    index: blockIndex(0),
    kind: 'demand',
    hops: 4,
    timeoutMs: 10_000,
    ...changes,
  };
}

export function bytesOf(index: number, length = BLOCK_SIZE_BYTES): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = (i * 31 + index * 7 + (i >> 8)) & 0xff;
  return bytes;
}

export function blockAnswer(index: number, length = BLOCK_SIZE_BYTES): AttestedBlock {
  return {
    payload: PooledBytes.unpooled(bytesOf(index, length)),
    attestation: {
      signer: new Uint8Array(32).fill(index),
      signature: new Uint8Array(164).fill(index + 1),
    },
  };
}

/** Answers and gives up its own hold, as the engine does. */
export function answerNow(incoming: IncomingBlockRequest, length = BLOCK_SIZE_BYTES): void {
  const answer = blockAnswer(incoming.request.index, length);
  void incoming.answer(answer);
  answer.payload.release();
}
