import { parseDigest, type Digest } from '../image/digest.ts';
import type { Disk } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import { BoundedMap } from '../util/bounded-map.ts';
import { errorText } from '../util/errors.ts';
import { DISTRUSTED_FILE } from './layout.ts';
import { replaceFile } from '../runtime/whole-file.ts';
import { readSmallFile } from './small-file.ts';

/** Maximum number of distrusted blobs: registries are wrong about a handful in years. */
const DISTRUSTED_MAX = 1024;

/** Bytes of a line: "sha256:", 64 digits and a line feed. */
const LINE_BYTES = 72;

/**
 * The blobs of which wrong blocks were attested, in a file of the store's folder, so that a restart
 * does not bring the blocks back. Beyond 1,024 blobs the one found first is forgotten, with a line
 * in the log.
 *
 * Life: constructed -> `start()` once the store has started -> used -> `stop()`, before the store
 * stops: what was added is on disk then.
 */
export class DistrustList implements Iterable<Digest> {
  readonly #parts: { readonly disk: Disk; readonly logger: Logger };
  readonly #digests = new BoundedMap<Digest, true>({
    entriesMax: DISTRUSTED_MAX,
    onEvict: (blob) =>
      this.#parts.logger.warn({ blob }, 'too many distrusted blobs: this one is trusted again'),
  });
  #saving: Promise<void> = Promise.resolve();
  #isSaveQueued = false;

  constructor(components: { readonly disk: Disk; readonly logger: Logger }) {
    this.#parts = components;
  }

  /** Reads the file. Damaged lines are lost, with a line in the log; they never fail the start. */
  async start(): Promise<void> {
    const bytes = await readSmallFile(this.#parts, DISTRUSTED_FILE, DISTRUSTED_MAX * LINE_BYTES);
    const lines = new TextDecoder().decode(bytes).split('\n');
    const digests = lines.flatMap((line) => parseDigest(line) ?? []);
    for (const digest of digests) this.#digests.set(digest, true);
    const lineCount = lines.filter((line) => line !== '').length - digests.length;
    if (lineCount === 0) return;
    const text = 'the list of distrusted blobs has damaged lines; they are ignored';
    this.#parts.logger.warn({ lineCount }, text);
  }

  stop(): Promise<void> {
    return this.#saving;
  }

  has(digest: Digest): boolean {
    return this.#digests.has(digest);
  }

  /** Adds the blob at once, and saves the list soon after. */
  add(digest: Digest): void {
    if (this.#digests.has(digest)) return;
    this.#digests.set(digest, true);
    if (this.#isSaveQueued) return;
    this.#isSaveQueued = true;
    this.#saving = this.#saving.then(() => this.#save());
  }

  *[Symbol.iterator](): Generator<Digest, void, undefined> {
    for (const [digest] of this.#digests) yield digest;
  }

  /** Never rejects: a failure is logged, and the next save may succeed. */
  async #save(): Promise<void> {
    this.#isSaveQueued = false;
    const { disk, logger } = this.#parts;
    const lines = [...this].map((digest) => `${digest}\n`).join('');
    try {
      const bytes = new TextEncoder().encode(lines);
      await replaceFile(disk, DISTRUSTED_FILE, bytes, { sync: true });
    } catch (error) {
      const text = 'the list of distrusted blobs was not saved: a restart may forget some of them';
      logger.error({ error: errorText(error) }, text);
    }
  }
}
