import type { BlobRef } from '../image/block.ts';
import { parseDigest, type Digest } from '../image/digest.ts';
import type { Disk } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import { readWhole, replaceFile } from '../runtime/whole-file.ts';
import { CodedError, errorText } from '../util/errors.ts';
import {
  ACCELERATION_FAILURES,
  ACCELERATION_STATES,
  ACCELERATION_TYPES,
  BELONGING_KINDS,
  type AccelerationFailure,
  type Belonging,
  type BlockImage,
  type ReadyVersion,
} from './messages.ts';
import type { ImageRecord } from './states.ts';

/** In the folder of the store. */
const FILE = 'acceleration.json';

/** Where a damaged file goes: it says what lies in registries. */
const ASIDE = `${FILE}.damaged`;

/** Room for `IMAGES_MAX` records and `BELONGINGS_MAX` belongings with all they may have. */
const FILE_BYTES_MAX = 128 * 1024 * 1024;

/** Version of the file. */
const VERSION = 1;

/** A field of JSON, whatever it is. */
type Raw = Readonly<Record<string, unknown>>;

/** What is kept over a restart. */
export interface KeptState {
  readonly images: readonly ImageRecord[];
  readonly belongings: readonly Belonging[];
}

/** Another release wrote the file. */
class StateFileError extends CodedError<{ readonly code: 'version' }> {}

/** Keeps the records of the images, and of what was made of them, over a restart. */
export class StateFile {
  readonly #parts: { readonly disk: Disk; readonly logger: Logger };

  constructor(components: { readonly disk: Disk; readonly logger: Logger }) {
    this.#parts = components;
  }

  /**
   * What an earlier run kept. A damaged record is left out, with a line in the log; a damaged file
   * is put aside. Rejects when another release wrote it.
   */
  async read(): Promise<KeptState> {
    const { disk, logger } = this.#parts;
    const none = { images: [], belongings: [] };
    try {
      const bytes = await readWhole(disk, FILE, FILE_BYTES_MAX);
      if (bytes === undefined) return none;
      const { version, images, belongings } = Object(
        JSON.parse(new TextDecoder().decode(bytes)),
      ) as Raw;
      if (version !== VERSION && typeof version === 'number') {
        throw new StateFileError(
          `${FILE} in the folder of the store has version ${version}, and this version of xylem ` +
            `reads ${VERSION}: use the one that wrote it, or move the file away (then no image ` +
            'is accelerated)',
          { code: 'version' },
        );
      }
      const [all, things] = [listOf(images), listOf(belongings)];
      const records = all.flatMap((each) => recordOf(each) ?? []);
      const kept = things.flatMap((each) => belongingOf(each) ?? []);
      const lostCount = all.length + things.length - records.length - kept.length;
      if (lostCount > 0) logger.warn({ path: FILE, lostCount }, 'damaged records are left out');
      return { images: records, belongings: kept };
    } catch (error) {
      if (error instanceof StateFileError) throw error;
      const fields = { path: FILE, aside: ASIDE, error: errorText(error) };
      const text = 'which images are accelerated cannot be read: none is, and the file goes aside';
      logger.warn(fields, text);
      await disk.rename(FILE, ASIDE).catch(() => {});
      return none;
    }
  }

  /** Rejects with DiskError. */
  async write(state: KeptState): Promise<void> {
    const bytes = new TextEncoder().encode(JSON.stringify({ version: VERSION, ...state }));
    await replaceFile(this.#parts.disk, FILE, bytes, { sync: true });
  }
}

function recordOf(value: unknown): ImageRecord | undefined {
  const raw = Object(value) as Raw;
  const { image, failures, requestedMs } = raw;
  const accelerationType = oneOf(ACCELERATION_TYPES, raw['accelerationType']);
  const state = oneOf(ACCELERATION_STATES, raw['state']);
  if (typeof image !== 'string' || accelerationType === undefined || state === undefined) return;
  if (typeof failures !== 'number' || typeof requestedMs !== 'number') return;
  return {
    ...{ image, accelerationType, state, failures, requestedMs },
    sourceDigest: digestOf(raw['sourceDigest']),
    ready: readyOf(raw['ready']),
    failure: failureOf(raw['failure']),
    lookedMs: numberOf(raw['lookedMs']),
    startedMs: numberOf(raw['startedMs']),
    finishedMs: numberOf(raw['finishedMs']),
    nextMs: numberOf(raw['nextMs']),
  };
}

function readyOf(value: unknown): ReadyVersion | undefined {
  const { sourceDigest, images, layerTags, readyMs, seconds } = Object(value) as Raw;
  const digest = digestOf(sourceDigest);
  if (digest === undefined || !Array.isArray(images)) return undefined;
  if (typeof readyMs !== 'number' || typeof seconds !== 'number') return undefined;
  const all = images.flatMap((each): readonly BlockImage[] => {
    const raw = Object(each) as Raw;
    const [made, source] = [digestOf(raw['digest']), digestOf(raw['sourceDigest'])];
    const { platform } = raw;
    if (made === undefined || source === undefined || typeof platform !== 'string') return [];
    return [{ platform, sourceDigest: source, digest: made }];
  });
  const tags = listOf(layerTags).filter((tag) => typeof tag === 'string');
  return { sourceDigest: digest, images: all, layerTags: tags, readyMs, seconds };
}

function belongingOf(value: unknown): Belonging | undefined {
  const { repository, kind, digest, subject, tag, blobs, idleMs } = Object(value) as Raw;
  const [made, original] = [digestOf(digest), digestOf(subject)];
  const known = oneOf(BELONGING_KINDS, kind);
  if (typeof repository !== 'string' || made === undefined || known === undefined) return undefined;
  if (known === 'image' && original === undefined) return undefined;
  const idle = numberOf(idleMs);
  return {
    ...{ repository, kind: known, digest: made, blobs: listOf(blobs).flatMap(blobOf) },
    ...(original !== undefined && { subject: original }),
    ...(typeof tag === 'string' && { tag }),
    ...(idle !== undefined && { idleMs: idle }),
  };
}

function blobOf(value: unknown): readonly BlobRef[] {
  const { digest, sizeBytes } = Object(value) as Raw;
  const named = digestOf(digest);
  return named === undefined || typeof sizeBytes !== 'number' ? [] : [{ digest: named, sizeBytes }];
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function failureOf(value: unknown): AccelerationFailure | undefined {
  const { kind, reason } = Object(value) as Raw;
  const known = oneOf(ACCELERATION_FAILURES, kind);
  return known === undefined || typeof reason !== 'string' ? undefined : { kind: known, reason };
}

function oneOf<T extends string>(all: readonly T[], value: unknown): T | undefined {
  return all.find((each) => each === value);
}

function digestOf(value: unknown): Digest | undefined {
  return parseDigest(String(value));
}

function numberOf(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined;
}
