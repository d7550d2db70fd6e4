import { freePorts } from '../../src/demo/free-ports.ts';
import { DiskStore } from '../../src/blockstore/disk-store.ts';
import { BLOCK_SIZE_BYTES, type BlobRef } from '../../src/image/block.ts';
import type { Digest } from '../../src/image/digest.ts';
import { peerIdOf, publicKeyOf } from '../../src/net/node/identity.ts';
import { Libp2pTransport } from '../../src/net/libp2p-transport.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { silentMetrics } from '../../src/runtime/metrics.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import { NodeCodec } from '../../src/runtime/node/codec.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { NodeMac } from '../../src/runtime/node/mac.ts';
import { ed25519Signer } from '../../src/runtime/node/signer.ts';
import type { SeededRandom } from '../../src/sim/seeded-random.ts';
import { TransferEngine } from '../../src/transfer/drive/engine.ts';
import { OriginError, type BlobStat, type Origin } from '../../src/transfer/contracts/origin.ts';
import type { HostCard } from '../../src/tree/messages.ts';
import { defined } from '../../src/util/assert.ts';
import { BufferPool } from '../../src/util/buffer-pool.ts';
import type { Scatter } from '../../src/util/scatter.ts';
import { SimDisk } from '../kit/sim-disk.ts';
import type { FaultReport } from './fault-report.ts';
import { DISK_FAULTS, FaultyDisk } from './faulty-disk.ts';
import { FaultyTransport, TRANSPORT_FAULTS } from './faulty-transport.ts';
import type { TruthBlob } from './truth.ts';

const MIB = 1024 * 1024;
const CLUSTER_KEYS = [new Uint8Array(32).fill(7)];

/** Share of the registry reads that it refuses as if with a 503. */
const REGISTRY_FAULTS = 0.02;

/** Small, so that most reads go to the disk or to a peer, and that the cache evicts blobs. */
const CACHE_BYTES = MIB;
const QUOTA_BYTES = 12 * MIB;

/** First ban of a host that sent bad bytes; short, so that wrong bytes keep arriving. */
const BAN_MS_MIN = 300;
const BAN_MS_MAX = 2_000;

/** The registry: has every blob, and refuses some reads. */
export class SoakOrigin implements Origin {
  readonly blobs = new Map<Digest, TruthBlob>();
  readonly #random: SeededRandom;
  readonly #report: FaultReport;
  faulty = true;
  /** Sends a wrong byte in every block, to check that the soak finds it. */
  wrong = false;

  constructor(components: { random: SeededRandom; report: FaultReport }) {
    this.#random = components.random;
    this.#report = components.report;
  }

  async readInto(blob: BlobRef, offset: number, target: Scatter): Promise<void> {
    if (this.faulty && this.#random.float() < REGISTRY_FAULTS) {
      this.#report.add('injected', 'registry: 503');
      throw new OriginError('the registry answers 503 on purpose', { code: 'unavailable' });
    }
    const truth = defined(this.blobs.get(blob.digest), 'a blob of the soak');
    const bytes = Uint8Array.from(truth.bytes(offset, target.length));
    if (this.wrong) for (let at = 0; at < bytes.length; at += BLOCK_SIZE_BYTES) bytes[at]! ^= 1;
    target.write(0, bytes);
  }

  named(): never {
    throw new OriginError('no images here', { code: 'not-found' });
  }

  resolve(): Promise<never> {
    return Promise.reject(new OriginError('no images here', { code: 'not-found' }));
  }

  believes(): boolean {
    return true;
  }

  async stat(digest: Digest): Promise<BlobStat> {
    const { sizeBytes } = defined(this.blobs.get(digest), 'a blob of the soak').ref;
    return { sizeBytes, isPublic: true };
  }
}

interface Running {
  readonly engine: TransferEngine;
  readonly transport: FaultyTransport;
  readonly disk: FaultyDisk;
  readonly store: DiskStore;
}

interface Shared {
  readonly random: SeededRandom;
  readonly report: FaultReport;
  readonly origin: SoakOrigin;
  readonly roots: readonly HostCard[];
}

/**
 * A host of the soak: real engine, store and network, on a faulty disk and behind a faulty
 * transport.
 *
 * Life: constructed -> `start()` -> `crash()` and `start()` any number of times -> `stop()`.
 */
export class SoakHost {
  readonly card: HostCard;
  readonly isRoot: boolean;
  readonly #seed: Uint8Array;
  readonly #shared: Shared;
  readonly #random: SeededRandom;
  #platter: SimDisk;
  #running: Running | undefined;
  /** Whether faults happen; may be set before a start too. */
  #faulty = true;
  /** Lives begun: a read that spans two lives was cut off. */
  life = 0;

  constructor(shared: Shared, init: { seed: Uint8Array; card: HostCard; isRoot: boolean }) {
    this.#shared = shared;
    this.#seed = init.seed;
    this.card = init.card;
    this.isRoot = init.isRoot;
    this.#random = shared.random.split(init.card.peer);
    this.#platter = new SimDisk({
      random: this.#random.split('platter'),
      onMischief: (kind) => shared.report.add('injected', `disk: ${kind}`),
    });
  }

  /** Undefined while it is down. */
  get engine(): TransferEngine | undefined {
    return this.#running?.engine;
  }

  async start(): Promise<void> {
    const random = this.#random.split(`life ${this.life}`);
    const clock = new SystemClock();
    const pool = new BufferPool({ slabBytes: BLOCK_SIZE_BYTES, freeMax: 8, poison: true });
    const parts = { clock, random, pool, logger: silentLogger, metrics: silentMetrics };
    const { report, origin, roots } = this.#shared;
    const disk = new FaultyDisk({ disk: this.#platter, random: random.split('disk'), report });
    const storeParts = { ...parts, disk, codec: new NodeCodec(), hash: new NodeHash() };
    const limits = { quotaBytes: QUOTA_BYTES, freeBytesMin: 0, syncIntervalMs: 100 };
    const store = new DiskStore(storeParts, limits);
    await store.start();
    const signer = ed25519Signer(this.#seed);
    const real = new Libp2pTransport(
      { ...parts, mac: new NodeMac() },
      {
        identity: { seed: this.#seed, publicKey: signer.publicKey },
        listen: this.card.addresses,
        clusterKeys: () => CLUSTER_KEYS,
      },
    );
    const transport = new FaultyTransport({
      transport: real,
      random: random.split('network'),
      clock,
      report,
    });
    const distrust = new Set<Digest>();
    const rest = { transport, store, origin, distrust, signer, hash: new NodeHash() };
    const engine = new TransferEngine(
      { ...parts, ...rest },
      {
        self: this.card,
        role: this.isRoot ? 'root' : 'child',
        roots,
        rootKeys: roots.map((root) => defined(publicKeyOf(root.peer), 'a key')),
        blocks: { cacheBytesMax: CACHE_BYTES, banMsMin: BAN_MS_MIN, banMsMax: BAN_MS_MAX },
      },
    );
    transport.serve({
      block: engine.blockServer,
      ...(this.isRoot && { calls: { ...engine.tree.handlers, ...engine.wrong.handlers } }),
    });
    await transport.start();
    engine.start();
    this.life++;
    this.#running = { engine, transport, disk, store };
    this.setFaulty(this.#faulty);
  }

  setFaulty(faulty: boolean): void {
    this.#faulty = faulty;
    if (this.#running === undefined) return;
    this.#running.disk.rates = faulty ? DISK_FAULTS : undefined;
    this.#running.transport.rates = faulty ? TRANSPORT_FAULTS : undefined;
  }

  /** Cuts the power: any part of the unsynced writes survives. Then the host is down. */
  async crash(): Promise<void> {
    const running = defined(this.#running, 'a host that runs');
    this.#running = undefined;
    this.#platter = this.#platter.losePower();
    await Promise.all([running.transport.stop(), ended(running.engine.stop())]);
  }

  async stop(): Promise<void> {
    if (this.#running === undefined) return;
    const { engine, transport, store } = this.#running;
    this.#running = undefined;
    await engine.stop();
    await transport.stop();
    await store.stop();
  }
}

/** The engine of a host without power may wait for its disk forever; no other part does. */
function ended(stop: Promise<void>): Promise<void> {
  void stop.catch(() => {});
  return Promise.resolve();
}

/** Roots and children on loopback, made by seed. */
export async function makeHosts(
  shared: Omit<Shared, 'roots'>,
  counts: { roots: number; children: number },
): Promise<readonly SoakHost[]> {
  const seeds = Array.from({ length: counts.roots + counts.children }, (_, i) =>
    shared.random.split(`key ${i}`).bytes(32),
  );
  const ports = await freePorts(seeds.length);
  const cards = seeds.map((seed, i): HostCard => {
    const peer = peerIdOf({ seed, publicKey: ed25519Signer(seed).publicKey });
    const addresses = [`/ip4/127.0.0.1/tcp/${ports[i]}`];
    return { peer, addresses, zone: 'z', capacity: 2 };
  });
  const roots = cards.slice(0, counts.roots);
  return cards.map((card, i) => {
    const seed = defined(seeds[i], 'a seed');
    return new SoakHost({ ...shared, roots }, { seed, card, isRoot: i < counts.roots });
  });
}
