import { join } from 'node:path';
import { afterAll, onTestFinished } from 'vitest';
import { DeviceImages } from '../../../../src/agent/device-socket/device-images.ts';
import { DeviceSocket } from '../../../../src/agent/device-socket/device-socket.ts';
import { Leases } from '../../../../src/blockstore/leases.ts';
import { AgentLink } from '../../../../src/device/link/agent-link.ts';
import type { LinkImage } from '../../../../src/device/link/image-opens.ts';
import { BlobError } from '../../../../src/edge/http/blob-error.ts';
import type { KeptManifest } from '../../../../src/edge/mirror/manifest-cache.ts';
import { silentLogger } from '../../../../src/runtime/logger.ts';
import { silentMetrics } from '../../../../src/runtime/metrics.ts';
import { SystemClock } from '../../../../src/runtime/node/clock.ts';
import { NodeDisk } from '../../../../src/runtime/node/disk.ts';
import { NodeHash } from '../../../../src/runtime/node/hash.ts';
import { BLOCK_SIZE_BYTES } from '../../../../src/image/block.ts';
import type { BlobReader } from '../../../../src/transfer/contracts/blob-reader.ts';
import { defined } from '../../../../src/util/assert.ts';
import { digestOf, orderOf } from '../../../preheat/kit/images.ts';
import { codec } from '../../../kit/layers.ts';
import { Cluster, type Node } from '../../../kit/engine-cluster.ts';
import { tempFolder } from '../../../kit/temp-folder.ts';

const clock = new SystemClock();

/** A cluster and its only child, for all tests of a file. */
export async function startNode(): Promise<{ readonly cluster: Cluster; readonly node: Node }> {
  const cluster = new Cluster();
  afterAll(() => cluster.stop());
  await cluster.start({ roots: 1, children: 1 });
  return { cluster, node: defined(cluster.children[0], 'a child') };
}

/** The manifests of a registry, by digest and tag. */
export class ManifestTwin {
  readonly kept = new Map<string, Uint8Array>();
  /** Why there is none. */
  refusal = new BlobError('no such image', { code: 'not-found' });

  async get(_origin: object, reference: string): Promise<KeptManifest> {
    const bytes = this.kept.get(reference);
    if (bytes === undefined) throw this.refusal;
    return { digest: digestOf(bytes), mediaType: 'm', bytes };
  }
}

/** Puts an image into the registry of a cluster. */
export function addImage(
  cluster: Cluster,
  manifests: ManifestTwin,
  layers: readonly Uint8Array[],
  trace?: Parameters<typeof orderOf>[2],
): Required<LinkImage> {
  const order = orderOf(cluster.origin, layers, trace);
  manifests.kept.set(order.digest, order.manifest);
  manifests.kept.set('1', order.manifest);
  return {
    reference: order.reference,
    manifestDigest: order.digest,
    layers: layers.map((bytes) => ({ digest: digestOf(bytes), sizeBytes: bytes.length })),
  };
}

/** The device socket of a node, which a test stops and starts. */
export class SocketRig {
  readonly path: string;
  readonly folder: string;
  leases: Leases;
  #socket: DeviceSocket | undefined;
  readonly #node: Node;
  readonly #manifests: ManifestTwin;
  readonly #orphanMs: number | undefined;

  constructor(node: Node, manifests: ManifestTwin, orphanMs?: number) {
    this.folder = tempFolder();
    this.path = join(this.folder, 'run', 'agent.sock');
    this.#node = node;
    this.#manifests = manifests;
    this.#orphanMs = orphanMs;
    this.leases = this.#newLeases();
    onTestFinished(() => this.stop());
  }

  /** `reader`: what blocks are read from, when it is not the engine. */
  async start(reader: Pick<BlobReader, 'read'> = this.#node.engine): Promise<void> {
    const { engine, store } = this.#node;
    const shared = { engine, store, clock, logger: silentLogger, metrics: silentMetrics };
    const { leases } = this;
    const parts = { ...shared, leases, manifests: this.#manifests, hash: new NodeHash(), codec };
    await leases.start();
    const images = new DeviceImages(parts);
    this.#socket = new DeviceSocket(
      { ...parts, reader, images },
      { place: { path: this.path, key: 'device.agentSocket' }, agent: '1.2.3' },
    );
    await this.#socket.start();
  }

  /** As an agent ends. The next one starts with what this one left on disk. */
  async stop(): Promise<void> {
    await this.#socket?.stop();
    this.#socket = undefined;
    await this.leases.stop();
    this.leases = this.#newLeases();
  }

  #newLeases(): Leases {
    const disk = new NodeDisk({ root: this.folder });
    const { store } = this.#node;
    const init = this.#orphanMs === undefined ? {} : { orphanMs: this.#orphanMs };
    return new Leases({ disk, store, clock, logger: silentLogger }, init);
  }
}

/** Reads of a node that a test holds back and lets go. */
export class GatedReader implements Pick<BlobReader, 'read'> {
  readonly asked: {
    readonly index: number;
    readonly kind: string;
    readonly signal: AbortSignal;
  }[] = [];
  isOpen = false;
  /** Reads that may pass although the gate is closed. */
  passes: (read: { readonly index: number; readonly kind: string }) => boolean = () => false;
  readonly #node: Node;
  readonly #waiting: (() => void)[] = [];

  constructor(node: Node) {
    this.#node = node;
  }

  async read(...args: Parameters<BlobReader['read']>): Promise<Uint8Array> {
    const [, offset, , { kind, signal = new AbortController().signal }] = args;
    const read = { index: offset / BLOCK_SIZE_BYTES, kind, signal };
    this.asked.push(read);
    if (!this.isOpen && !this.passes(read)) {
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
        signal.addEventListener('abort', () => resolve());
      });
    }
    return this.#node.engine.read(...args);
  }

  open(): void {
    this.isOpen = true;
    for (const go of this.#waiting.splice(0)) go();
  }
}

/** A link to the socket, started, that ends with the test. */
export function startLink(
  path: string,
  init: { readonly readTimeoutMs?: number; readonly blocksKeptMax?: number } = {},
): AgentLink {
  const parts = { clock, logger: silentLogger, metrics: silentMetrics };
  const link = new AgentLink(parts, { path, ...init });
  link.start();
  onTestFinished(() => link.stop());
  return link;
}
