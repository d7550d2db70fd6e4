import type { Digest } from '../image/digest.ts';
import type { Disk } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import { BoundedMap } from '../util/bounded-map.ts';
import { errorText } from '../util/errors.ts';
import { encodeDigestList, readDigestList } from './digest-list.ts';
import { DISTRUSTED_FILE } from './layout.ts';
import { replaceFile } from '../runtime/whole-file.ts';

/** Maximum number of distrusted blobs: registries are wrong about a handful in years. */
const DISTRUSTED_MAX = 1024;

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

  /** Reads the file. A damaged one is written anew, with a line in the log. */
  async start(): Promise<void> {
    const what = 'the list of distrusted blobs';
    const list = { path: DISTRUSTED_FILE, what, digestsMax: DISTRUSTED_MAX };
    const { digests, isWhole } = await readDigestList(this.#parts, list);
    for (const digest of digests) this.#digests.set(digest, true);
    if (!isWhole) this.#saveSoon();
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
    this.#saveSoon();
  }

  #saveSoon(): void {
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
    try {
      await replaceFile(disk, DISTRUSTED_FILE, encodeDigestList(this), { sync: true });
    } catch (error) {
      const text = 'the list of distrusted blobs was not saved: a restart may forget some of them';
      logger.error({ error: errorText(error) }, text);
    }
  }
}
