import { BLOB_SIZE_BYTES_MAX, type BlobOrigin } from '../../image/block.ts';
import { parseDigest, type Digest } from '../../image/digest.ts';
import type { Clock, Timer } from '../../runtime/clock.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { Disk } from '../../runtime/disk.ts';
import type { Logger } from '../../runtime/logger.ts';
import { readWhole, replaceFile } from '../../runtime/whole-file.ts';
import { PUBLIC_MS_MAX, type KeptVerdict } from '../../transfer/host/open-blob-types.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { toHex } from '../../util/bytes.ts';
import { errorText } from '../../util/errors.ts';

/** As many as blobs are open at a time; the one that was said longest ago goes first. */
const VERDICTS_MAX = 16_384;

/** Repositories whose names their verdicts share. */
const PLACES_MAX = 1_024;

/** Bytes of the largest file: a verdict with the longest names has some 700. */
const FILE_BYTES_MAX = 16 * 1024 * 1024;

/** Time from a new verdict to its write: those of one image are written together. (tunable) */
const WRITE_MS = 2_000;

/** A verdict that is said again is written again when the file has it this much older. (tunable) */
const RENEW_MS = 3_600_000;

/** Below the root of the store. */
const FILE = 'public';

const MAGIC = 'xylem-public 1';

interface Verdict {
  readonly registry: string;
  readonly repository: string;
  readonly digest: Digest;
  readonly sizeBytes: number;
  /** When a root said so last, in milliseconds since 1970. */
  readonly saidMs: number;
}

/** A repository. Its verdicts share it, so that each keeps no text of a request. */
interface Place extends Pick<Verdict, 'registry' | 'repository'> {
  /** Start of the keys of its verdicts. */
  readonly prefix: string;
}

interface Kept extends Omit<Verdict, 'registry' | 'repository'> {
  readonly place: Place;
  /** When the verdict was said that the next write or an earlier one has. */
  readonly writtenMs: number;
}

interface Components {
  readonly disk: Disk;
  readonly hash: Pick<Hash, 'sha256'>;
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * Which blobs were public in which repository in the last day, also over restarts: for the time
 * when neither a root nor the registry answers. Only what anybody may read is kept, and no
 * credentials, nor anything made of them. A verdict ends after `PUBLIC_MS_MAX`, with a no of the
 * registry, and when the clock went back behind it.
 *
 * Life: constructed -> `start()` (reads what an earlier run kept) -> used -> `stop()` (writes).
 */
export class KeptVerdicts {
  readonly #parts: Components;
  readonly #verdicts = new BoundedMap<string, Kept>({ entriesMax: VERDICTS_MAX });
  readonly #places = new BoundedMap<string, Place>({ entriesMax: PLACES_MAX, evict: 'use' });
  #timer: Timer | undefined;
  #isChanged = false;
  #writing: Promise<void> = Promise.resolve();

  constructor(components: Components) {
    this.#parts = components;
  }

  /** Never rejects: a file that is damaged, or that the disk does not give, is as none. */
  async start(): Promise<void> {
    const { disk, logger } = this.#parts;
    try {
      const bytes = await readWhole(disk, FILE, FILE_BYTES_MAX);
      if (bytes === undefined) return;
      const kept = this.#parse(Buffer.from(bytes).toString());
      if (kept === undefined) {
        this.#isChanged = true; // The next write replaces it.
        return logger.warn({ path: FILE }, 'kept verdicts are damaged: they are gone');
      }
      for (const { digest, sizeBytes, saidMs, ...names } of kept.slice(-VERDICTS_MAX)) {
        const place = this.#placeOf(names);
        const verdict: Kept = { place, digest, sizeBytes, saidMs, writtenMs: saidMs };
        this.#verdicts.set(keyOf(digest, place), verdict);
      }
    } catch (error) {
      logger.warn({ path: FILE, error: errorText(error) }, 'kept verdicts cannot be read');
    }
  }

  /** Writes what is not written yet. Never rejects. */
  async stop(): Promise<void> {
    this.#write();
    await this.#writing;
  }

  /** The verdict on the blob in this repository, if there is one that still counts. */
  get(digest: Digest, origin: BlobOrigin): KeptVerdict | undefined {
    const verdict = this.#verdicts.peek(keyOf(digest, this.#placeOf(origin)));
    if (verdict === undefined) return undefined;
    const ageMs = this.#parts.clock.wallMs() - verdict.saidMs;
    if (ageMs >= 0 && ageMs < PUBLIC_MS_MAX) {
      return { sizeBytes: verdict.sizeBytes, leftMs: PUBLIC_MS_MAX - ageMs };
    }
    this.end(digest, origin);
    return undefined;
  }

  /** A root says that the registry gives the blob to anybody. */
  put(digest: Digest, origin: BlobOrigin, sizeBytes: number): void {
    const saidMs = this.#parts.clock.wallMs();
    const place = this.#placeOf(origin);
    const key = keyOf(digest, place);
    const before = this.#verdicts.peek(key);
    const ageMs = saidMs - (before?.writtenMs ?? Number.NEGATIVE_INFINITY);
    const isWritten = ageMs >= 0 && ageMs < RENEW_MS && before?.sizeBytes === sizeBytes;
    const writtenMs = isWritten ? before.writtenMs : saidMs;
    this.#verdicts.set(key, { place, digest, sizeBytes, saidMs, writtenMs });
    if (isWritten) return;
    this.#isChanged = true;
    this.#timer ??= this.#parts.clock.setTimer(WRITE_MS, () => this.#write());
  }

  /** The registry says no, or the verdict is over. */
  end(digest: Digest, origin: BlobOrigin): void {
    if (!this.#verdicts.delete(keyOf(digest, this.#placeOf(origin)))) return;
    this.#isChanged = true;
    this.#write();
  }

  #placeOf({ registry, repository }: Pick<BlobOrigin, 'registry' | 'repository'>): Place {
    const name = `${registry}/${repository}@`;
    const known = this.#places.get(name);
    if (known !== undefined) return known;
    const prefix = ownText(name);
    const place = { registry: ownText(registry), repository: ownText(repository), prefix };
    this.#places.set(prefix, place);
    return place;
  }

  /** One write after the other; each has all that is known when it begins. */
  #write(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#writing = this.#writing.then(async () => {
      if (!this.#isChanged) return;
      this.#isChanged = false;
      const { disk, logger } = this.#parts;
      try {
        await replaceFile(disk, FILE, Buffer.from(this.#text()), { sync: true });
      } catch (error) {
        this.#isChanged = true;
        logger.warn({ error: errorText(error) }, 'verdicts were not kept');
      }
    });
  }

  #text(): string {
    const verdicts = Array.from(this.#verdicts, ([, kept]): Verdict => {
      const { place, digest, sizeBytes, saidMs } = kept;
      const { registry, repository } = place;
      return { registry, repository, digest, sizeBytes, saidMs };
    });
    const text = JSON.stringify({ writtenMs: this.#parts.clock.wallMs(), verdicts });
    return `${MAGIC} ${this.#checksum(text)}\n${text}\n`;
  }

  /** The verdicts of a file; undefined when it is damaged. None when the clock went back. */
  #parse(file: string): readonly Verdict[] | undefined {
    const [head, text = ''] = file.split('\n');
    if (head !== `${MAGIC} ${this.#checksum(text)}`) return undefined;
    const { writtenMs, verdicts } = JSON.parse(text) as {
      readonly writtenMs: unknown;
      readonly verdicts: unknown;
    };
    if (typeof writtenMs !== 'number' || !Array.isArray(verdicts)) return undefined;
    if (this.#parts.clock.wallMs() < writtenMs) return [];
    return verdicts.filter(isVerdict);
  }

  #checksum(text: string): string {
    return toHex(this.#parts.hash.sha256(Buffer.from(text)));
  }
}

function keyOf(digest: Digest, { prefix }: Place): string {
  return prefix + digest;
}

/** Names come as parts of URLs, which such a part would keep in memory. */
function ownText(text: string): string {
  return Buffer.from(text).toString();
}

function isVerdict(value: unknown): value is Verdict {
  const { registry, repository, digest, sizeBytes, saidMs } = Object(value) as Record<
    string,
    unknown
  >;
  const isSized =
    Number.isSafeInteger(sizeBytes) &&
    Number(sizeBytes) >= 0 &&
    Number(sizeBytes) <= BLOB_SIZE_BYTES_MAX;
  return (
    typeof registry === 'string' &&
    typeof repository === 'string' &&
    parseDigest(String(digest)) !== undefined &&
    typeof saidMs === 'number' &&
    isSized
  );
}
