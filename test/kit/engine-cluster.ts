import { createHash, randomBytes } from 'node:crypto';
import { MemoryStore } from '../../src/blockstore/memory-store.ts';
import { BLOCK_SIZE_BYTES, type BlobOrigin, type BlobRef } from '../../src/image/block.ts';
import { parseDigest, type Digest } from '../../src/image/digest.ts';
import { peerIdOf, publicKeyOf } from '../../src/net/node/identity.ts';
import { Libp2pTransport } from '../../src/net/libp2p-transport.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { silentMetrics } from '../../src/runtime/metrics.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import type { Signer } from '../../src/runtime/codec.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { NodeMac } from '../../src/runtime/node/mac.ts';
import { SystemRandom } from '../../src/runtime/node/random.ts';
import { ed25519Signer } from '../../src/runtime/node/signer.ts';
import { TransferEngine } from '../../src/transfer/drive/engine.ts';
import {
  OriginError,
  type BlobStat,
  type NamedImage,
  type Origin,
} from '../../src/transfer/contracts/origin.ts';
import type { HostAddress, HostCard, ResolveReply } from '../../src/tree/messages.ts';
import { defined } from '../../src/util/assert.ts';
import { BufferPool } from '../../src/util/buffer-pool.ts';
import type { Scatter } from '../../src/util/scatter.ts';
import { freePorts } from '../../src/demo/free-ports.ts';

export const ORIGIN: BlobOrigin = { registry: 'registry.test', repository: 'app' };

const CLUSTER_KEYS = [new Uint8Array(32).fill(7)];

/** A registry in memory that counts the blocks that it sends. */
export class CountingOrigin implements Origin {
  readonly blobs = new Map<Digest, Uint8Array>();
  bytes = 0;
  /** Gives a wrong first byte of this block of every blob. */
  wrongBlock: number | undefined;
  /** Called when an agent reports wrong bytes of a blob. */
  onDistrust = (): void => {};

  add(sizeBytes: number): BlobRef {
    const bytes = new Uint8Array(randomBytes(sizeBytes));
    const hex = createHash('sha256').update(bytes).digest('hex');
    const digest = defined(parseDigest(`sha256:${hex}`), 'a digest');
    this.blobs.set(digest, bytes);
    return { digest, sizeBytes };
  }

  async readInto(blob: BlobRef, offset: number, target: Scatter): Promise<void> {
    const bytes = this.blobs.get(blob.digest);
    if (bytes === undefined) throw new OriginError('no such blob', { code: 'not-found' });
    this.bytes += target.length;
    const part = bytes.slice(offset, offset + target.length);
    const at = (this.wrongBlock ?? Number.NaN) * BLOCK_SIZE_BYTES - offset;
    if (at >= 0 && at < part.length) part[at] = (part[at] ?? 0) ^ 1;
    target.write(0, part);
  }

  distrust(): void {
    this.onDistrust();
  }

  async stat(digest: Digest): Promise<BlobStat> {
    const bytes = this.blobs.get(digest);
    if (bytes === undefined) throw new OriginError('no such blob', { code: 'not-found' });
    return { sizeBytes: bytes.length, isPublic: true };
  }

  named(reference: string): NamedImage {
    const [, registry = '', repository = '', digest = ''] =
      /^([^/]+)\/([^:@]+)(?::[^@]*)?(?:@(.+))?$/.exec(reference) ?? [];
    return { origin: { registry, repository }, digest: parseDigest(digest) };
  }

  resolve(): Promise<ResolveReply> {
    return Promise.reject(new OriginError('no images here', { code: 'not-found' }));
  }

  believes({ registry }: BlobOrigin): boolean {
    return registry !== 'stranger.test';
  }
}

/** An agent without its endpoints: real network and logic, the store in memory. */
export interface Node {
  readonly engine: TransferEngine;
  readonly transport: Libp2pTransport;
  readonly store: MemoryStore;
  readonly origin: CountingOrigin;
  readonly distrust: ReadonlySet<Digest>;
  readonly signer: Signer;
  readonly host: HostAddress;
  stop(): Promise<void>;
}

/** Roots and children on loopback that share one registry. */
export class Cluster {
  readonly origin = new CountingOrigin();
  readonly roots: Node[] = [];
  readonly children: Node[] = [];
  readonly #nodes = new Set<Node>();

  async start(init: { roots: number; children: number; reportIntervalMs?: number }): Promise<void> {
    const seeds = Array.from({ length: init.roots + init.children }, () => randomBytes(32));
    const ports = await freePorts(seeds.length);
    const cards = seeds.map((seed, i) => cardOf(seed, defined(ports[i], 'a port')));
    const roots = cards.slice(0, init.roots);
    for (const [i, seed] of seeds.entries()) {
      const card = defined(cards[i], 'a card');
      const node = await this.#startNode(seed, { ...init, card, roots });
      (i < init.roots ? this.roots : this.children).push(node);
    }
  }

  async stop(): Promise<void> {
    await Promise.all([...this.#nodes].map((node) => node.stop()));
  }

  async #startNode(
    seed: Uint8Array,
    init: { card: HostCard; roots: readonly HostCard[]; reportIntervalMs?: number },
  ): Promise<Node> {
    const signer = ed25519Signer(seed);
    const pool = new BufferPool({ slabBytes: BLOCK_SIZE_BYTES, freeMax: 8, poison: true });
    const parts = {
      clock: new SystemClock(),
      random: new SystemRandom(),
      logger: silentLogger,
      metrics: silentMetrics,
      mac: new NodeMac(),
      pool,
    };
    const transport = new Libp2pTransport(parts, {
      identity: { seed, publicKey: signer.publicKey },
      listen: init.card.addresses,
      clusterKeys: () => CLUSTER_KEYS,
    });
    const store = new MemoryStore();
    const isRoot = init.roots.includes(init.card);
    const distrust = new Set<Digest>();
    const engine = new TransferEngine(
      {
        ...parts,
        transport,
        store,
        origin: this.origin,
        distrust,
        hash: new NodeHash(),
        signer,
      },
      {
        self: init.card,
        role: isRoot ? 'root' : 'child',
        roots: init.roots,
        ...(init.reportIntervalMs !== undefined && { reportIntervalMs: init.reportIntervalMs }),
        rootKeys: init.roots.map((root) => defined(publicKeyOf(root.peer), 'a key')),
      },
    );
    const calls = { ...engine.tree.handlers, ...engine.wrong.handlers };
    transport.serve({ block: engine.blockServer, ...(isRoot && { calls }) });
    await store.start();
    await transport.start();
    engine.start();
    const node: Node = {
      engine,
      transport,
      store,
      origin: this.origin,
      distrust,
      signer,
      host: init.card,
      stop: async () => {
        if (!this.#nodes.delete(node)) return;
        await engine.stop();
        await transport.stop();
        await store.stop();
      },
    };
    this.#nodes.add(node);
    return node;
  }
}

function cardOf(seed: Uint8Array, port: number): HostCard {
  const peer = peerIdOf({ seed, publicKey: ed25519Signer(seed).publicKey });
  return { peer, addresses: [`/ip4/127.0.0.1/tcp/${port}`], zone: 'z', capacity: 2 };
}
