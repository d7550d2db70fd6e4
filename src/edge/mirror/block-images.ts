import type { IncomingMessage } from 'node:http';
import type { BlobOrigin } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import { BLOCK_IMAGE_ARTIFACT_TYPE } from '../../image/manifest.ts';
import { hostPlatform, isIndex, selectPlatform } from '../../registry/platform.ts';
import { referrersOfType } from '../../registry/referrers.ts';
import type { Clock } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { Counter, Metrics } from '../../runtime/metrics.ts';
import { FailureLog } from '../http/failure-log.ts';
import { listReference } from './block-image-list.ts';
import type { KeptManifest } from './manifest-cache.ts';
import type { Manifests } from './manifests.ts';
import { mirrorMetrics } from './metrics.ts';

/** The header of a client that can mount block images. */
export const BLOCK_IMAGES_HEADER = 'Xylem-Accept-Block-Images';

/** What it says. */
export const BLOCK_IMAGES_VALUE = 'yes';

/** A client gets the original when there is no answer by then. (tunable) */
const FIND_MS_MAX = 5_000;

/** Whether the client can mount block images. Plain containerd would unpack one as files. */
export function wantsBlockImages({ headers }: IncomingMessage): boolean {
  const value = headers[BLOCK_IMAGES_HEADER.toLowerCase()];
  return typeof value === 'string' && value.trim().toLowerCase() === BLOCK_IMAGES_VALUE;
}

interface Components {
  readonly manifests: Pick<Manifests, 'get'>;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/**
 * Finds the block images of ordinary ones: among the referrers of the manifest for the platform of
 * this host.
 */
export class BlockImages {
  readonly #parts: Components;
  readonly #found: Counter;
  readonly #failures: FailureLog;

  constructor(components: Components) {
    this.#parts = components;
    this.#found = mirrorMetrics(components.metrics).blockImages;
    const message = 'a block image was not found; its original is given';
    this.#failures = new FailureLog(components, { message });
  }

  /**
   * The block image of a manifest or an index of the same repository; undefined when there is none,
   * or none can be found now. Rejects only with the signal's reason.
   */
  async find(
    origin: BlobOrigin,
    original: KeptManifest,
    signal: AbortSignal,
  ): Promise<KeptManifest | undefined> {
    const { clock } = this.#parts;
    try {
      const found = await within(
        clock,
        FIND_MS_MAX,
        (limit) => this.#find(origin, original, limit),
        { signal },
      );
      this.#found.inc({ result: found === undefined ? 'none' : 'given' });
      return found;
    } catch (error) {
      signal.throwIfAborted();
      this.#found.inc({ result: 'failed' });
      this.#failures.note(error, { digest: original.digest });
      return undefined;
    }
  }

  async #find(
    origin: BlobOrigin,
    original: KeptManifest,
    signal: AbortSignal,
  ): Promise<KeptManifest | undefined> {
    const { manifests } = this.#parts;
    const name = `${origin.registry}/${origin.repository}`;
    const subject = isIndex(original)
      ? selectPlatform(original.bytes, hostPlatform(), name)
      : original.digest;
    const list = await manifests.get(origin, listReference(subject), signal);
    const last = referrersOfType([list.bytes], BLOCK_IMAGE_ARTIFACT_TYPE).at(-1);
    if (last === undefined) return undefined;
    const found = await manifests.get(origin, last.digest, signal);
    return isBlockImageOf(found, subject) ? found : undefined;
  }
}

/** Anybody may list anything: the manifest itself has to name its subject. */
function isBlockImageOf({ bytes }: KeptManifest, original: Digest): boolean {
  try {
    const { artifactType, subject } = JSON.parse(new TextDecoder().decode(bytes)) as {
      artifactType?: unknown;
      subject?: { digest?: unknown };
    };
    return artifactType === BLOCK_IMAGE_ARTIFACT_TYPE && subject?.digest === original;
  } catch {
    return false;
  }
}
