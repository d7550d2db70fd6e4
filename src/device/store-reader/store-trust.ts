import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import {
  DISTRUSTED_FILE,
  VERSION_FILE,
  VERSION_TEXT,
  type BlockRecord,
} from '../../blockstore/layout.ts';
import type { Digest } from '../../image/digest.ts';
import { bytesEqual } from '../../util/bytes.ts';

/**
 * How long what was found in the files of a store counts without another look, in milliseconds: as
 * long as a block may still be read after the store has dropped it. A look at a block costs 3 us.
 */
export const LOOK_MS = 1000;

/** Which blocks of a store are believed, besides having the bytes that their records name. */
export class StoreTrust {
  readonly #dir: string;
  readonly #untrustedSigners: readonly Uint8Array[];
  #lookedMs = Number.NEGATIVE_INFINITY;
  #isUsable = false;
  #distrusted: ReadonlySet<string> = new Set();
  /** Names the state of the file of distrusted blobs that was read last. */
  #stamp = '';

  /** What `untrustedSigners` have attested is not believed. */
  constructor(init: { dir: string; untrustedSigners: readonly Uint8Array[] }) {
    this.#dir = init.dir;
    this.#untrustedSigners = init.untrustedSigners;
  }

  /** Whether anything of the store is to be read; looks at it anew after `LOOK_MS`. */
  look(nowMs: number): boolean {
    if (nowMs - this.#lookedMs < LOOK_MS) return this.#isUsable;
    this.#lookedMs = nowMs;
    try {
      this.#readDistrusted();
      this.#isUsable = readFileSync(join(this.#dir, VERSION_FILE), 'utf8') === VERSION_TEXT;
    } catch {
      this.#isUsable = false; // There is no store, or its lists are not known.
    }
    return this.#isUsable;
  }

  /** Whether the root that attested a block is believed about this blob. */
  believes(digest: Digest, { attestation }: BlockRecord): boolean {
    if (this.#distrusted.has(digest)) return false;
    return !this.#untrustedSigners.some((key) => bytesEqual(key, attestation.signer));
  }

  #readDistrusted(): void {
    const path = join(this.#dir, DISTRUSTED_FILE);
    const found = statSync(path, { throwIfNoEntry: false });
    const stamp = found === undefined ? '' : `${found.ino}:${found.mtimeMs}:${found.size}`;
    if (stamp === this.#stamp) return;
    const text = found === undefined ? '' : readFileSync(path, 'utf8');
    this.#distrusted = new Set(text.split('\n'));
    this.#stamp = stamp;
  }
}
