import type { Leases } from '../../blockstore/leases.ts';
import type { BlockStore } from '../../blockstore/store.ts';
import { isFinal, LinkError } from '../../device/link/errors.ts';
import type { OpenedReply, OpenRequest } from '../../device/link/frames.ts';
import { ANSWER_SHARE } from '../../device/link/limits.ts';
import type { Manifests } from '../../edge/mirror/manifests.ts';
import type { BlobOrigin, BlobRef } from '../../image/block.ts';
import { digestOf, type Digest } from '../../image/digest.ts';
import {
  blockLayers,
  INDEX_MEDIA_TYPES,
  parseManifest,
  type Manifest,
  type ResolvedImage,
} from '../../image/manifest.ts';
import { parseReference } from '../../registry/reference.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Codec, Hash } from '../../runtime/codec.ts';
import { within } from '../../runtime/deadline.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { TransferEngine } from '../../transfer/drive/engine.ts';
import { openImage, type OpenedImage } from '../../transfer/read/open-image.ts';
import { Counts } from '../../util/counts.ts';
import { errorText } from '../../util/errors.ts';
import { orAbort } from '../../util/or-abort.ts';
import { linkFailureOf } from './link-failure.ts';

/**
 * Longest wait for a manifest whose layers the device process names, in milliseconds: without it
 * the layers are opened alone.
 */
const MANIFEST_MS_MAX = 10_000;
/** The same for an image in use, whose reads wait. */
const MANIFEST_AGAIN_MS_MAX = 2_000;

/** How long an image may take. */
interface Limits {
  readonly deadlineMs: number;
  readonly signal: AbortSignal;
}

/** An image that a device process has open. */
export interface DeviceImage {
  readonly reply: OpenedReply;
  readonly opened: OpenedImage;
}

interface Components {
  readonly engine: TransferEngine;
  readonly manifests: Pick<Manifests, 'get'>;
  readonly store: Pick<BlockStore, 'blocksOf' | 'keepMatching'>;
  readonly leases: Leases;
  readonly hash: Hash;
  readonly codec: Codec;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** A manifest that was found, or why it was not. */
type Sought =
  | { readonly image: ResolvedImage; readonly bytes: Uint8Array }
  | { readonly image: undefined; readonly why: unknown };

/** Opens images for device processes: finds them, joins their trees, leases their blobs. */
export class DeviceImages {
  readonly #parts: Components;
  /** Number of images with each blob that are open. */
  readonly #blobs = new Counts<Digest>();

  constructor(components: Components) {
    this.#parts = components;
  }

  /**
   * Opens an image: with its manifest where that can be found, so that its block digests and its
   * trace count; else the layers that the request names, alone. Resolves when each layer could be
   * read. Rejects with CodedError, DeadlineError, or the signal's reason.
   */
  open(request: OpenRequest, signal: AbortSignal): Promise<DeviceImage> {
    const { clock } = this.#parts;
    const deadlineMs = clock.nowMs() + request.timeoutMs;
    const open = async (limited: AbortSignal): Promise<DeviceImage> => {
      try {
        return await this.#open(request, { deadlineMs, signal: limited });
      } catch (error) {
        // What was given up says only that; the reason says why.
        limited.throwIfAborted();
        throw error;
      }
    };
    return within(clock, request.timeoutMs, open, { signal });
  }

  /** Whether an image with this blob is open. */
  has(digest: Digest): boolean {
    return this.#blobs.has(digest);
  }

  /** The device process is done with the image. */
  close({ opened }: DeviceImage): void {
    this.#end(opened);
    this.#parts.leases.drop(opened.digests);
  }

  /** The device process went away with the image open: its blobs stay for a while. */
  lose({ opened }: DeviceImage): void {
    this.#end(opened);
    this.#parts.leases.orphan(opened.digests);
  }

  #end(opened: OpenedImage): void {
    opened.close();
    for (const digest of opened.digests) this.#blobs.remove(digest);
  }

  async #open(request: OpenRequest, limits: Limits): Promise<DeviceImage> {
    const { leases } = this.#parts;
    const { reference, layers: named, isAgain } = request;
    const origin = originOf(reference);
    const sought = await this.#seek(request, limits);
    const image = sought.image === undefined ? undefined : partOf(sought.image, request);
    if (image === undefined) this.#checkAlone(request, sought);
    const opened = await this.#join(image, { layers: named, origin }, { ...limits, isAgain });
    try {
      const layers = image === undefined ? named : blockLayers(image.manifest);
      await Promise.all(layers.map((blob) => this.#dropOthers(blob)));
      if (!isAgain) await this.#require(layers, limits);
      limits.signal.throwIfAborted();
      await leases.hold(opened.digests);
      for (const digest of opened.digests) this.#blobs.add(digest);
      const bytes = image === undefined || sought.image === undefined ? undefined : sought.bytes;
      return { reply: { layers, manifest: bytes }, opened };
    } catch (error) {
      opened.close();
      throw error;
    }
  }

  /**
   * Whether layers may be opened without their manifest: not when the registry says no to the
   * image, unless this host has read it before. Throws what the search for the manifest did.
   */
  #checkAlone({ reference, layers, isAgain }: OpenRequest, sought: Sought): void {
    const { store, logger } = this.#parts;
    const why = sought.image === undefined ? sought.why : undefined;
    const no = why === undefined ? undefined : linkFailureOf(why);
    const isHere = isAgain || layers.every(({ digest }) => store.blocksOf(digest).length > 0);
    if (layers.length === 0 || (no !== undefined && isFinal(no.code) && !isHere)) {
      throw why instanceof Error ? why : noLayers(reference);
    }
    const text = why === undefined ? 'its tag has moved' : errorText(why);
    logger.info({ reference, why: text }, 'layers are opened without their manifest');
  }

  /** Finds the manifest. Rejects only when the signal aborts. */
  async #seek(request: OpenRequest, limits: Limits): Promise<Sought> {
    const { clock } = this.#parts;
    const { layers, isAgain } = request;
    const leftMs = limits.deadlineMs - clock.nowMs();
    const mayWaitMs = isAgain ? MANIFEST_AGAIN_MS_MAX : MANIFEST_MS_MAX;
    const waitMs = layers.length === 0 ? leftMs : Math.min(mayWaitMs, leftMs / 2);
    const { signal } = limits;
    try {
      return await within(clock, waitMs, (limited) => this.#manifest(request, limited), { signal });
    } catch (why) {
      signal.throwIfAborted();
      return { image: undefined, why };
    }
  }

  async #manifest(request: OpenRequest, signal: AbortSignal): Promise<Sought> {
    const { engine, hash, manifests } = this.#parts;
    const { reference, manifestDigest } = request;
    const origin = originOf(reference);
    if (request.manifest !== undefined) {
      const digest = digestOf(hash, request.manifest);
      return found(reference, { digest, bytes: request.manifest, origin });
    }
    const { tag = '', digest: named } = parseReference(reference);
    const wanted = manifestDigest ?? named ?? tag;
    const { digest, mediaType, bytes } = await manifests.get(origin, wanted, signal);
    const indexTypes: readonly string[] = INDEX_MEDIA_TYPES;
    if (!indexTypes.includes(mediaType)) return found(reference, { digest, bytes, origin });
    const exact = `${origin.registry}/${origin.repository}@${digest}`;
    const told = await orAbort(engine.tree.manifestOf(exact), signal);
    return found(reference, { digest: told.manifestDigest, bytes: told.manifest, origin });
  }

  #join(
    image: ResolvedImage | undefined,
    { layers, origin }: { readonly layers: readonly BlobRef[]; readonly origin: BlobOrigin },
    { signal, isAgain }: Limits & { readonly isAgain: boolean },
  ): Promise<OpenedImage> {
    const { engine, hash, codec, logger } = this.#parts;
    // What is open again is read at once: places come by and by.
    const options = isAgain ? { placesMsMax: 0 } : {};
    if (image !== undefined) {
      const trace = { codec, logger, order: engine.order.bind(engine) };
      // Of an image in use, the start that the trace describes is over.
      return openImage({ engine, hash, ...(!isAgain && { trace }) }, image, signal, options);
    }
    const digests = layers.map(({ digest }) => digest);
    const located = layers.map((blob) => ({ blob, origin }));
    return engine.tree
      .open(located, signal, options.placesMsMax)
      .then(() => ({ digests, close: () => engine.tree.close(digests) }));
  }

  /**
   * Drops what the store took on a root's word and the image says is wrong: the device process
   * reads the store's files by itself, without the digests of the image. A failure of the disk
   * costs that, and no more. Never rejects.
   */
  async #dropOthers(blob: BlobRef): Promise<void> {
    const { engine, store, logger } = this.#parts;
    const digests = engine.verifier.digestsOf(blob.digest);
    if (digests === undefined) return;
    try {
      await store.keepMatching(blob, (index, digest) => digests.matches(index, digest));
    } catch (error) {
      const fields = { blob: blob.digest, error: errorText(error) };
      logger.warn(fields, 'blocks in the store were not held against the digests of their image');
    }
  }

  /**
   * Reads the end of each layer, which its reader wants first: so an image that cannot be had is
   * known at once, with the reason.
   */
  async #require(layers: readonly BlobRef[], limits: Limits): Promise<void> {
    const { engine, clock } = this.#parts;
    const { signal } = limits;
    const timeoutMs = Math.max(1, (limits.deadlineMs - clock.nowMs()) * ANSWER_SHARE);
    const options = { kind: 'demand', timeoutMs, signal, endsOnNo: true } as const;
    const last = ({ sizeBytes }: BlobRef): number => Math.max(0, sizeBytes - 1);
    await Promise.all(
      layers.map((blob) => engine.read(blob, last(blob), blob.sizeBytes - last(blob), options)),
    );
  }
}

function found(
  reference: string,
  what: { readonly digest: Digest; readonly bytes: Uint8Array; readonly origin: BlobOrigin },
): Sought {
  const { digest, bytes, origin } = what;
  return { image: { reference, digest, manifest: manifestIn(bytes), origin }, bytes };
}

function manifestIn(bytes: Uint8Array): Manifest {
  try {
    return parseManifest(bytes);
  } catch (cause) {
    throw new LinkError(errorText(cause), { code: 'damaged' }, { cause });
  }
}

/**
 * The image up to the layers that the request names; undefined when the manifest has others, since
 * the tag has moved. Throws LinkError, `invalid`, when the request names that very manifest.
 */
function partOf(
  image: ResolvedImage,
  { layers, manifestDigest, reference }: OpenRequest,
): ResolvedImage | undefined {
  if (layers.length === 0) return image;
  const all = blockLayers(image.manifest);
  const isStart = layers.every(({ digest, sizeBytes }, i) => {
    const layer = all[i];
    return layer?.digest === digest && layer.sizeBytes === sizeBytes;
  });
  if (!isStart) {
    if (image.digest !== manifestDigest) return undefined;
    const text = `the layers of ${reference} are not those of its manifest ${image.digest}`;
    throw new LinkError(text, { code: 'invalid' });
  }
  const wanted = new Set(layers.map(({ digest }) => digest));
  const others = new Set(all.map(({ digest }) => digest).filter((digest) => !wanted.has(digest)));
  const kept = image.manifest.layers.filter(({ digest }) => !others.has(digest));
  return { ...image, manifest: { ...image.manifest, layers: kept } };
}

function originOf(reference: string): BlobOrigin {
  const { registry, repository } = parseReference(reference);
  return { registry, repository };
}

function noLayers(reference: string): LinkError {
  return new LinkError(`${reference} has no layers`, { code: 'invalid' });
}
