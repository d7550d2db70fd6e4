import type { BlobRef } from '../image/block.ts';
import type { ByteSource } from '../image/byte-source.ts';
import { ImageError } from '../image/errors.ts';
import { requireLayer } from '../image/layer.ts';
import {
  ACCELERATION_ANNOTATION,
  OVERLAYBD_ANNOTATION,
  parseManifest,
  type Descriptor,
} from '../image/manifest.ts';
import type { Clock, Timer } from '../runtime/clock.ts';
import { BoundedMap } from '../util/bounded-map.ts';
import { orAbort } from '../util/or-abort.ts';
import type { BlobReader } from '../transfer/contracts/blob-reader.ts';
import { DeviceError } from './errors.ts';
import {
  isStart,
  type Chain,
  type ChainLayer,
  type ImageOpener,
  type Opened,
} from './image-chain.ts';

/**
 * How long an image stays open after a check without a device, in milliseconds: a container runtime
 * creates the container soon after the pull, and meanwhile the trace of the image is prefetched.
 */
const CHECKED_MS = 120_000;

/** Images that stay open after a check at a time. */
const CHECKED_MAX = 64;

/** Layers whose ends could be read, so that they have the sizes that the chain says. */
interface Checked {
  readonly layers: readonly ChainLayer[];
  readonly opened: Promise<Opened>;
  readonly timer: Timer;
}

/** Opens the layers of a chain; without a signal until the end of all. */
export type OpenChain = (chain: Chain, signal?: AbortSignal) => Promise<Opened>;

/**
 * What images say of their layers, held against the layers themselves before a device is made of
 * them: containerd has one layer for all images that have it in their place, and asks once.
 */
export class ImageChecks {
  readonly #parts: {
    readonly open: OpenChain;
    readonly images: Pick<ImageOpener, 'open'>;
    readonly local: Pick<BlobReader, 'read'>;
    readonly clock: Clock;
  };
  /** By what names the image. */
  readonly #checked = new BoundedMap<string, Checked>({
    entriesMax: CHECKED_MAX,
    onEvict: (_, kept) => letGo(kept),
  });

  constructor(components: {
    readonly open: OpenChain;
    readonly images: Pick<ImageOpener, 'open'>;
    readonly local: Pick<BlobReader, 'read'>;
    readonly clock: Clock;
  }) {
    this.#parts = components;
  }

  /**
   * Makes sure that the blobs of a chain can be read, and have the sizes that it says, without a
   * mount. The image stays open for a while, for its other layers, and for the container that is
   * about to start. Rejects with a CodedError.
   */
  async check(chain: Chain, signal: AbortSignal): Promise<void> {
    const kept = this.#checked.get(nameOf(chain));
    if (kept !== undefined && isStart(chain.layers, kept.layers)) {
      const isRead = await orAbort(kept.opened, signal).then(
        () => true,
        () => false, // Of which layer, the check of each one by itself says.
      );
      signal.throwIfAborted();
      if (isRead) return;
    }
    const opened = await this.#parts.open(chain, signal);
    const whole = opened.manifest && wholeOf(opened.manifest, chain);
    if (whole === undefined) return this.#keep(chain, Promise.resolve(opened));
    // All others at a time: the runtime asks for one after the other.
    const ahead = this.#parts.open(whole);
    this.#keep(whole, ahead);
    const close = (): void => opened.close();
    ahead.then(close, close);
  }

  /**
   * Makes sure that a blob is no layer of a device, so that it may be left out of one. Rejects with
   * a CodedError.
   */
  async checkTrace(
    { reference, digest, sizeBytes }: Pick<Chain, 'reference'> & ChainLayer,
    signal: AbortSignal,
  ): Promise<void> {
    // The manifest has it among no layers.
    const opened = await this.#parts.images.open(
      { reference, layers: [{ digest, sizeBytes }] },
      signal,
      {
        isMounted: false,
      },
    );
    try {
      await requireLayer(this.#sourceOf({ digest, sizeBytes }, signal));
    } catch (error) {
      if (error instanceof ImageError && error.code !== 'unreadable') return;
      throw error;
    } finally {
      opened.close();
    }
    const what = `the blob ${digest} of ${reference} is a block layer, and no trace as it says`;
    throw new DeviceError(what, { code: 'damaged', step: 'reading a layer' });
  }

  #sourceOf(blob: BlobRef, signal: AbortSignal): ByteSource {
    const options = { kind: 'demand', signal, endsOnNo: true } as const;
    return {
      sizeBytes: blob.sizeBytes,
      read: (offset, length) => this.#parts.local.read(blob, offset, length, options),
    };
  }

  #keep(chain: Chain, opened: Promise<Opened>): void {
    const name = nameOf(chain);
    this.#uncheck(name);
    const timer = this.#parts.clock.setTimer(CHECKED_MS, () => this.#uncheck(name));
    this.#checked.set(name, { layers: chain.layers, opened, timer });
  }

  /** What a check has opened of just this chain, from now on the caller's. */
  take(chain: Chain): Promise<Opened> | undefined {
    const kept = this.#checked.get(nameOf(chain));
    if (kept?.layers.length !== chain.layers.length) return undefined;
    if (!isStart(chain.layers, kept.layers)) return undefined;
    this.#checked.delete(nameOf(chain));
    kept.timer.cancel();
    return kept.opened.catch(() => this.#parts.open(chain));
  }

  /** Lets all images go. */
  stop(): void {
    for (const [name] of this.#checked) this.#uncheck(name);
  }

  #uncheck(name: string): void {
    const kept = this.#checked.get(name);
    this.#checked.delete(name);
    if (kept !== undefined) letGo(kept);
  }
}

function letGo({ opened, timer }: Checked): void {
  timer.cancel();
  opened.then(
    (open) => open.close(),
    () => {},
  );
}

function nameOf({ reference, manifestDigest }: Chain): string {
  return `${reference} ${manifestDigest ?? ''}`;
}

/** A chain, with all block layers of its manifest above; undefined when it has all of them. */
function wholeOf(manifest: Uint8Array, chain: Chain): Chain | undefined {
  const blocks = blockLayersIn(manifest);
  const isMore = blocks.length > chain.layers.length && isStart(chain.layers, blocks);
  return isMore ? { ...chain, layers: blocks } : undefined;
}

/** The layers of a manifest that are read on demand, bottom first, up to the first ordinary one. */
function blockLayersIn(manifest: Uint8Array): readonly ChainLayer[] {
  const { layers } = parseManifest(manifest);
  const blocks = layers.filter(({ annotations }) => annotations[ACCELERATION_ANNOTATION] !== 'yes');
  const isOrdinary = ({ annotations }: Descriptor): boolean =>
    annotations[`${OVERLAYBD_ANNOTATION}blob-digest`] === undefined;
  const end = blocks.findIndex(isOrdinary);
  const found = end < 0 ? blocks : blocks.slice(0, end);
  return found.map(({ digest, size }) => ({ digest, sizeBytes: size }));
}
