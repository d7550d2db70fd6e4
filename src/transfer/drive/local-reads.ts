import type { AttestedBlock } from '../../image/attested-block.ts';
import type { BlobRef, BlockIndex } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { ReadOptions } from '../contracts/blob-reader.ts';
import { TransferError, type TransferErrorDetail } from '../contracts/errors.ts';
import type { OriginNo } from '../contracts/origin.ts';
import type { LocalRead } from '../core/core-types.ts';
import type { LastFailures } from './last-failures.ts';
import type { LocalToken } from './read-token.ts';

/** Default deadline of a read: as long as real clients wait (overlaybd gives up after 30 s). */
const READ_TIMEOUT_MS = 30_000;

/** Turns reads of blocks by this host, which the reducer knows by their tokens, into promises. */
export class LocalReads {
  readonly #init: {
    readonly start: (read: LocalRead<LocalToken>) => void;
    readonly cancel: (token: LocalToken) => void;
  };
  /** Reads that have not ended. */
  readonly #reads = new Set<LocalToken>();
  #isStopped = false;

  /** `start` makes the reducer read: it ends in a call of the token, or in `cancel`. */
  constructor(init: {
    readonly start: (read: LocalRead<LocalToken>) => void;
    readonly cancel: (token: LocalToken) => void;
  }) {
    this.#init = init;
  }

  start(): void {
    this.#isStopped = false;
  }

  /** Rejects every read, now and later. */
  stop(): void {
    this.#isStopped = true;
    for (const token of [...this.#reads]) {
      token.reject(new TransferError('the agent stops', { code: 'cancelled' }));
    }
  }

  /** The block, which the caller releases. Rejects with TransferError. */
  read(blob: BlobRef, index: BlockIndex, options: ReadOptions): Promise<AttestedBlock> {
    return new Promise((resolve, reject) => {
      if (this.#isStopped || options.signal?.aborted === true) {
        reject(readError(blob.digest, index, { code: 'cancelled' }));
        return;
      }
      const end = (): void => {
        this.#reads.delete(token);
        options.signal?.removeEventListener('abort', onAbort);
      };
      const token: LocalToken = {
        digest: blob.digest,
        kind: options.kind,
        resolve: (block) => {
          end();
          resolve(block);
        },
        reject: (error) => {
          end();
          reject(error);
        },
      };
      this.#reads.add(token);
      const onAbort = (): void => {
        this.#init.cancel(token);
        token.reject(readError(blob.digest, index, { code: 'cancelled' }));
      };
      options.signal?.addEventListener('abort', onAbort, { once: true });
      const { kind, timeoutMs = READ_TIMEOUT_MS, endsOnNo } = options;
      this.#init.start({ token, digest: blob.digest, index, kind, timeoutMs, endsOnNo });
    });
  }
}

/** Why a block was not read. */
export function readError(
  digest: Digest,
  index: BlockIndex,
  detail: TransferErrorDetail,
): TransferError {
  return new TransferError(`block ${index} of ${digest} was not read: ${whyOf(detail)}`, detail);
}

/** Ends a read by the reducer's word. Of one that nobody answered it says who failed, and how. */
export function failRead(
  { digest, reject }: LocalToken,
  detail: TransferErrorDetail,
  failures: Pick<LastFailures, 'of'>,
): void {
  const recently = detail.code === 'deadline' ? failures.of(digest) : '';
  reject(new TransferError(`block was not read: ${whyOf(detail)}${recently}`, detail));
}

/** Why a block was not read, in words. */
function whyOf(detail: TransferErrorDetail): string {
  switch (detail.code) {
    case 'deadline':
      return `no source answered in ${Math.round(detail.waitedMs)} ms`;
    case 'origin':
      return whyNot(detail.no);
    default:
      return detail.code;
  }
}

function whyNot(no: OriginNo): string {
  switch (no) {
    case 'protocol':
      return 'the registry answered twice with what is no part of it';
    case 'bad-content':
      return 'the registry gave other bytes than its digest names';
    case 'limited':
      return 'the registry wants to be left alone for long';
    case 'not-found':
    case 'refused':
      return `the registry says ${no}`;
  }
}
