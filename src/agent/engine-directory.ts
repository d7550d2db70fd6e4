import type { BlobOrigin, BlobRef } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import type { Clock } from '../runtime/clock.ts';
import type { TransferEngine } from '../transfer/engine.ts';
import type { BlobAddress, BlobDirectory } from './ports.ts';

/** How long after its last use a blob that a local client opened stays in its trees: as long as the trees keep a silent host. */
const IDLE_MS_MAX = 20 * 60_000;

interface Opened {
  readonly blob: Promise<BlobRef>;
  usedMs: number;
}

/** Opens blobs for the clients of the local endpoint: finds their size once, joins their trees, leaves when they are idle. */
export class EngineDirectory implements BlobDirectory {
  readonly #engine: TransferEngine;
  readonly #clock: Clock;
  /** Used least recently first. */
  readonly #opened = new Map<Digest, Opened>();

  constructor(components: { engine: TransferEngine; clock: Clock }) {
    this.#engine = components.engine;
    this.#clock = components.clock;
  }

  async open(
    digest: Digest,
    address: BlobAddress,
    options: { readonly signal: AbortSignal },
  ): Promise<BlobRef> {
    this.#sweep();
    const known = this.#opened.get(digest);
    const opened = known ?? { blob: this.#join(digest, address, options.signal), usedMs: 0 };
    opened.usedMs = this.#clock.nowMs();
    this.#opened.delete(digest);
    this.#opened.set(digest, opened);
    try {
      return await opened.blob;
    } catch (error) {
      if (this.#opened.get(digest) === opened) this.#opened.delete(digest);
      throw error;
    }
  }

  async #join(digest: Digest, origin: BlobOrigin, signal: AbortSignal): Promise<BlobRef> {
    const { registry, repository } = origin;
    const where = { registry, repository };
    const blob = { digest, sizeBytes: await this.#engine.tree.stat(digest, where, signal) };
    await this.#engine.tree.open([{ blob, origin: where }], signal);
    return blob;
  }

  #sweep(): void {
    const idleMs = this.#clock.nowMs() - IDLE_MS_MAX;
    for (const [digest, { usedMs }] of this.#opened) {
      if (usedMs > idleMs) return;
      this.#opened.delete(digest);
      this.#engine.tree.close([digest]);
    }
  }
}
