import type { Digest } from '../image/digest.ts';
import type { Clock, Timer } from '../runtime/clock.ts';
import type { Disk } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import { replaceFile } from '../runtime/whole-file.ts';
import { assert } from '../util/assert.ts';
import { Counts } from '../util/counts.ts';
import { errorText } from '../util/errors.ts';
import { encodeDigestList, readDigestList } from './digest-list.ts';
import { LEASES_FILE } from './layout.ts';
import type { BlockStore } from './store.ts';

/** Most blobs that the file names: the layers of a thousand images. */
const LEASES_MAX = 16_384;

/**
 * How long blobs stay mounted for a device process that is away, in milliseconds: it restarts in
 * seconds, and an agent that is upgraded in a minute.
 */
const ORPHAN_MS = 10 * 60_000;

interface LeaseComponents {
  readonly disk: Disk;
  readonly store: Pick<BlockStore, 'retain' | 'release'>;
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * The blobs of devices that another process mounts: they count as mounted in the store, also over
 * a restart of the agent, and of that process. Their list is a file of the store's folder. What it
 * names at the start, and what was `orphan()`ed, stays mounted until `settle()`, ten minutes at
 * most.
 *
 * Life: constructed -> `start()`, before the store's -> used once the store has started ->
 * `stop()`, before the store's, which keeps the file.
 */
export class Leases {
  readonly #parts: LeaseComponents;
  readonly #orphanMs: number;
  /** Number of `hold()`s of each blob without a `drop()` or an `orphan()` yet. */
  readonly #held = new Counts<Digest>();
  /** Blobs whose holder is away. */
  readonly #orphans = new Set<Digest>();
  #timer: Timer | undefined;
  #saving: Promise<void> = Promise.resolve();
  #isSaveQueued = false;
  #isStopped = false;

  constructor(components: LeaseComponents, init: { readonly orphanMs?: number } = {}) {
    this.#parts = components;
    this.#orphanMs = init.orphanMs ?? ORPHAN_MS;
  }

  /** Blobs that count as mounted. */
  get digests(): readonly Digest[] {
    return [...new Set([...this.#held.keys(), ...this.#orphans])];
  }

  /** Reads the file. A damaged one is written anew, with a line in the log. */
  async start(): Promise<void> {
    this.#isStopped = false;
    const list = { path: LEASES_FILE, what: 'the list of leased blobs', digestsMax: LEASES_MAX };
    const { digests, isWhole } = await readDigestList(this.#parts, list);
    this.#addOrphans(digests);
    if (!isWhole) await this.#save();
  }

  /** The blobs count as mounted. Once it resolves, a restart of the agent does not change that. */
  async hold(digests: readonly Digest[]): Promise<void> {
    this.#parts.store.retain(digests);
    for (const digest of digests) this.#held.add(digest);
    await this.#save();
  }

  /** Ends one `hold()` of each blob. */
  drop(digests: readonly Digest[]): void {
    this.#unhold(digests);
    void this.#save();
  }

  /** Ends one `hold()` of each blob, whose holder went away and may come back. */
  orphan(digests: readonly Digest[]): void {
    this.#addOrphans(digests);
    this.#unhold(digests);
  }

  /** The process that was away has come back, and holds all that it wants. */
  settle(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    if (this.#orphans.size === 0) return;
    const digests = [...this.#orphans];
    this.#orphans.clear();
    this.#parts.store.release(digests);
    void this.#save();
  }

  /** The list on disk is the last one. */
  stop(): Promise<void> {
    this.#timer?.cancel();
    this.#isStopped = true;
    return this.#saving;
  }

  #unhold(digests: readonly Digest[]): void {
    for (const digest of digests) {
      assert(this.#held.has(digest), `cannot drop ${digest}: it is not held`);
      this.#held.remove(digest);
    }
    this.#parts.store.release(digests);
  }

  #addOrphans(digests: readonly Digest[]): void {
    const added = [...new Set(digests)].filter((digest) => !this.#orphans.has(digest));
    for (const digest of added) this.#orphans.add(digest);
    this.#parts.store.retain(added);
    if (this.#orphans.size === 0) return;
    this.#timer?.cancel();
    this.#timer = this.#parts.clock.setTimer(this.#orphanMs, () => {
      const fields = { blobs: this.#orphans.size };
      this.#parts.logger.info(fields, 'no device process came back for its blobs: they may go');
      this.settle();
    });
  }

  /** Saves the list as it is then; those who ask meanwhile share one save. Never rejects. */
  #save(): Promise<void> {
    if (this.#isStopped || this.#isSaveQueued) return this.#saving;
    this.#isSaveQueued = true;
    this.#saving = this.#saving.then(() => this.#write());
    return this.#saving;
  }

  async #write(): Promise<void> {
    this.#isSaveQueued = false;
    const { disk, logger } = this.#parts;
    const { digests } = this;
    if (digests.length > LEASES_MAX) {
      const fields = { blobs: digests.length, listed: LEASES_MAX };
      logger.warn(fields, 'more blobs are mounted than a restart remembers');
    }
    try {
      // A loss of power ends the mounts too.
      const bytes = encodeDigestList(digests.slice(0, LEASES_MAX));
      await replaceFile(disk, LEASES_FILE, bytes, { sync: false });
    } catch (error) {
      const why = 'the list of leased blobs was not saved: after a restart they may be evicted';
      logger.error({ error: errorText(error) }, why);
    }
  }
}
