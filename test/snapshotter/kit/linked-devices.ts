import { open, stat, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { DeviceService } from '../../../src/device/device-service.ts';
import { AgentLink } from '../../../src/device/link/agent-link.ts';
import type { OpenedLink } from '../../../src/device/link/image-opens.ts';
import type { BlobRef } from '../../../src/image/block.ts';
import { digestHex, parseDigest, type Digest } from '../../../src/image/digest.ts';
import { LAYER_MEDIA_TYPE, OVERLAYBD_ANNOTATION } from '../../../src/image/manifest.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import type { ChainLayer, DeviceChain, ImageDevices } from '../../../src/snapshotter/contracts.ts';
import type { BlobReader, ReadOptions } from '../../../src/transfer/contracts/blob-reader.ts';
import { defined } from '../../../src/util/assert.ts';
import { codec } from '../../kit/layers.ts';

/** How long an image may take to open, on a machine that does much else. */
const OPEN_MS_MAX = 30_000;

interface Device {
  readonly holders: Set<string>;
  readonly mounted: Promise<{ readonly dir: string; readonly opened: OpenedLink | undefined }>;
}

/**
 * Real devices, shared and counted: mounts by FUSE, the blocks of an agent through its device
 * socket, and those of downloaded layers from their files.
 */
export class LinkedDevices implements ImageDevices {
  readonly service: DeviceService;
  readonly #reader: LayerReader;
  readonly #link: AgentLink;
  readonly #mountDir: string;
  readonly #devices = new Map<string, Device>();

  /** `folder`: for mounts. `agentSocket`: where an agent serves devices. */
  constructor(init: { folder: string; agentSocket: string }) {
    const shared = { clock: new SystemClock(), logger: silentLogger, metrics: silentMetrics };
    this.#link = new AgentLink(shared, { path: init.agentSocket });
    this.#reader = new LayerReader(this.#link);
    this.#mountDir = join(init.folder, 'mounts');
    this.service = new DeviceService(
      { ...shared, codec, reader: this.#reader },
      { stateDir: join(init.folder, 'device'), mountFolders: [this.#mountDir] },
    );
  }

  async start(): Promise<void> {
    this.#link.start();
    await this.service.start();
  }

  async stop(): Promise<void> {
    await this.service.stop();
    this.#link.stop();
    await this.#reader.close();
  }

  /** The holders of each device, by its chain id. */
  holders(): Readonly<Record<string, readonly string[]>> {
    return Object.fromEntries([...this.#devices].map(([id, { holders }]) => [id, [...holders]]));
  }

  async check(chain: DeviceChain, signal: AbortSignal): Promise<void> {
    const opened = await this.#open(chain, signal);
    try {
      for (const blob of blobsOf(chain)) {
        await this.#link.read(blob, 0, 1, { kind: 'demand', timeoutMs: OPEN_MS_MAX, signal });
      }
    } finally {
      opened?.close();
    }
  }

  async hold(chain: DeviceChain, holder: string, signal: AbortSignal) {
    const known = this.#devices.get(chain.chainId);
    const device = known ?? { holders: new Set<string>(), mounted: this.#mount(chain, signal) };
    this.#devices.set(chain.chainId, device);
    try {
      const { dir } = await device.mounted;
      device.holders.add(holder);
      return { dir };
    } catch (error) {
      this.#devices.delete(chain.chainId);
      throw error;
    }
  }

  async drop(holder: string): Promise<void> {
    for (const [chainId, { holders, mounted }] of this.#devices) {
      if (!holders.delete(holder) || holders.size > 0) continue;
      this.#devices.delete(chainId);
      const { dir, opened } = await mounted;
      await this.service.unmount(dir);
      opened?.close();
    }
  }

  async #mount(chain: DeviceChain, signal: AbortSignal) {
    const opened = await this.#open(chain, signal);
    const layers = await Promise.all(chain.layers.map((layer) => this.#reader.add(layer)));
    const annotations = { [`${OVERLAYBD_ANNOTATION}blob-fs-type`]: chain.fsType };
    const descriptors = layers.map(({ digest, sizeBytes: size }) => {
      return { mediaType: LAYER_MEDIA_TYPE, digest, size, annotations };
    });
    const config = defined(descriptors[0], 'a device has a layer');
    const [registry = '', ...rest] = chain.reference.split('/');
    const image = {
      reference: chain.reference,
      digest: defined(parseDigest(chain.chainId), 'a chain id is a digest'),
      manifest: { mediaType: '', config, layers: descriptors, annotations: {} },
      origin: { registry, repository: rest.join('/') },
    };
    const dir = join(this.#mountDir, digestHex(image.digest).slice(0, 16));
    await this.service.mount(image, dir);
    return { dir, opened };
  }

  async #open(chain: DeviceChain, signal: AbortSignal): Promise<OpenedLink | undefined> {
    const { reference, manifestDigest } = chain;
    const layers = blobsOf(chain);
    if (layers.length === 0) return undefined;
    const image = { reference, manifestDigest, layers };
    return this.#link.open(image, signal, { timeoutMs: OPEN_MS_MAX });
  }
}

/** The layers that the cluster has. */
function blobsOf({ layers }: DeviceChain): readonly BlobRef[] {
  return layers.filter(({ file }) => file === undefined);
}

/** Reads layers from their files where they have one, and from the agent. */
class LayerReader implements BlobReader {
  readonly #link: AgentLink;
  readonly #files = new Map<Digest, FileHandle>();

  constructor(link: AgentLink) {
    this.#link = link;
  }

  /** The layer as it is read: a file has another size than the blob. */
  async add({ digest, sizeBytes, file }: ChainLayer): Promise<BlobRef> {
    if (file === undefined) return { digest, sizeBytes };
    if (!this.#files.has(digest)) this.#files.set(digest, await open(file));
    return { digest, sizeBytes: (await stat(file)).size };
  }

  async read(blob: BlobRef, offset: number, length: number, options: ReadOptions) {
    const file = this.#files.get(blob.digest);
    if (file === undefined) return this.#link.read(blob, offset, length, options);
    const bytes = new Uint8Array(length);
    await file.read(bytes, 0, length, offset);
    return bytes;
  }

  readCached(blob: BlobRef, offset: number, length: number): Uint8Array | undefined {
    if (this.#files.has(blob.digest)) return undefined;
    return this.#link.readCached(blob, offset, length);
  }

  async close(): Promise<void> {
    for (const file of this.#files.values()) await file.close();
  }
}
